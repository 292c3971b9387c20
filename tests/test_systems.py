"""What Windows and macOS do otherwise: encodings of text, modules that are not there, locks, names of files."""

import ast
import subprocess
import sys
import types
from pathlib import Path, PureWindowsPath

import pytest

from flashvsr.upscale.errors import ResumeError
from flashvsr.upscale.journal import Journal
from flashvsr.video import image_name, is_pattern
from flashvsr.video.info import file_url

PACKAGE = Path(__file__).parents[1] / "flashvsr"
POSIX_ONLY = ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "posix_ipc")


def _modes(call: ast.Call, place: int) -> str | None:
    """The mode of a call of open, None when it is not written out."""
    given = [word.value for word in call.keywords if word.arg == "mode"] + call.args[place : place + 1]
    if not given:
        return "r"
    return given[0].value if isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else None


def _nameless(file: Path) -> list[str]:
    """Calls that read or write text in the encoding of the machine, which is not UTF-8 on Windows."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_text = isinstance(node.func, ast.Attribute) and name in ("read_text", "write_text")
        if name == "open" and not (isinstance(node.func, ast.Attribute) and _is_module(node.func.value)):
            mode = _modes(node, 0 if isinstance(node.func, ast.Attribute) else 1)
            is_text = mode is not None and "b" not in mode and set(mode) <= set("rwaxt+")
        if is_text:
            found.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    return found


def _is_module(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id in (
        "av",
        "os",
        "Image",
        "fsspec",
        "tarfile",
        "wave",
        "urllib",
        "_io",
    )


def test_every_text_file_is_read_and_written_as_utf_8():
    assert not [place for file in sorted(PACKAGE.rglob("*.py")) for place in _nameless(file)]


def test_modules_of_posix_are_imported_where_they_are_needed_only():
    wrong = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{file.relative_to(PACKAGE)}: {name}" for name in names if name in POSIX_ONLY]
    assert not wrong


@pytest.mark.slow  # a process that imports torch
def test_the_way_of_upscale_imports_without_modules_of_posix():
    code = f"import sys\nsys.modules |= dict.fromkeys({POSIX_ONLY!r})\nimport flashvsr.upscale, flashvsr.cli.upscale"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_second_run_is_kept_out_by_the_locks_of_windows_too(tmp_path, monkeypatch):
    held = set()

    def locking(handle, mode, count):
        if tmp_path in held:
            raise PermissionError(13, "Permission denied")
        held.add(tmp_path)

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    with Journal.create(tmp_path / "out.partial", {}):
        with pytest.raises(ResumeError, match="in use by another run"):
            Journal.create(tmp_path / "out.partial", {})
        held.clear()


def test_paths_of_windows_are_names_and_patterns_too():
    path = PureWindowsPath(r"C:\Users\Zoë\frames\%05d.png")
    assert is_pattern(path.name)
    assert image_name(path.name, 7) == "00007.png"
    assert file_url(path) == r"file:C:\Users\Zoë\frames\%05d.png"


def test_a_console_that_is_not_utf_8_gets_every_line(monkeypatch):
    import io

    from flashvsr.upscale.progress import Bar, Lines

    raw = io.BytesIO()
    console = io.TextIOWrapper(raw, encoding="cp1252", errors="backslashreplace")  # as Python opens stderr
    monkeypatch.setattr(sys, "stderr", console)
    Lines().line("🎈 ballon.mp4: 3 frames")
    with Bar() as bar:
        bar.start(0, 10)
        bar.update(5)
        bar.line("日本.mp4")
    console.flush()
    assert b"ballon.mp4: 3 frames" in raw.getvalue()
    assert b".mp4" in raw.getvalue()
