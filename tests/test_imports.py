"""Who may import whom (design: the house), and that importing is quick and quiet."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import flashvsr

ROOT = Path(flashvsr.__file__).parent
EVERYTHING = {"*"}
MAY_IMPORT = {
    "kernels": set(),
    "streaming": set(),
    "video": set(),
    "training": set(),
    "attention": {"kernels"},
    "decoders": {"kernels"},
    "distill": {"training"},
    "models": {"attention", "decoders", "kernels", "streaming"},
    "data": {"streaming", "video"},  # LR frames are resized by the stream's own function
    "curate": {"data", "video"},
    "evaluate": {"data", "video"},
    "upscale": {"models", "streaming", "video"},
    "bench": {"models", "streaming", "video"},
    "app": {"upscale", "models", "streaming", "video"},
    "cli": EVERYTHING,
    "state": set(),
    "__init__": EVERYTHING,
    "__main__": {"cli"},
}
LIGHTNING_FILES = ("lit.py", "lit_compile.py", "lit_conditional.py", "lit_one_step.py")
HEAVY = ("lightning", "omegaconf", "webdataset", "torchvision", "xformers")


def _imported_parts(file: Path) -> set[str]:
    """Parts of flashvsr a file imports anywhere, in functions too."""
    parts = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [node.module or ""]
            if node.module == "flashvsr":
                names = [f"flashvsr.{alias.name}" for alias in node.names if alias.name != "__version__"]
        parts |= {name.split(".")[1] for name in names if name.startswith("flashvsr.")}
    return parts


def _may_use_lightning(file: Path) -> bool:
    room = file.relative_to(ROOT).parts
    return file.name in LIGHTNING_FILES or room[0] == "cli" or room == ("training", "callbacks.py")


def test_parts_import_only_what_they_may():
    wrong = []
    for file in sorted(ROOT.rglob("*.py")):
        part = file.relative_to(ROOT).parts[0].removesuffix(".py")
        assert part in MAY_IMPORT, f"{part} has no row in the table of who may import whom"
        allowed = MAY_IMPORT[part] | {part, "state"} | ({"training"} if file.name in LIGHTNING_FILES else set())
        if MAY_IMPORT[part] != EVERYTHING and not _imported_parts(file) <= allowed:
            wrong.append(f"{file.relative_to(ROOT)} imports {', '.join(sorted(_imported_parts(file) - allowed))}")
    assert not wrong


def test_lightning_lives_only_in_lit_files_callbacks_and_the_command_line():
    wrong = []
    for file in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(file.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if {name.split(".")[0] for name in imported} & {"lightning", "pytorch_lightning"} and not _may_use_lightning(
            file
        ):
            wrong.append(str(file.relative_to(ROOT)))
    assert not wrong


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_parts_import_without_the_heavy_dependencies():
    parts = ("kernels", "streaming", "attention", "decoders", "training", "distill", "models", "upscale")
    code = f"""
import importlib, sys
for part in {parts!r}:
    importlib.import_module("flashvsr." + part)
    print(*(part + " loads " + name for name in {HEAVY!r} if name in sys.modules))
"""
    assert _run(code).strip() == ""


def test_importing_flashvsr_loads_nothing_of_weight_and_prints_nothing():
    code = "import sys; import flashvsr; print([m for m in ('torch', 'numpy', 'av', 'yaml') if m in sys.modules])"
    assert _run(code).strip() == "[]"


@pytest.mark.slow  # every module with all its dependencies
def test_every_module_imports_without_what_only_posix_systems_have():
    blocked = ("fcntl", "pwd", "grp", "resource", "termios")
    code = f"""
import importlib, os, pkgutil, sys, torch, flashvsr
if hasattr(os, "sched_getaffinity"):
    del os.sched_getaffinity
sys.modules |= dict.fromkeys({blocked!r})
for module in pkgutil.walk_packages(flashvsr.__path__, "flashvsr."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    assert "Error" not in _run(code)


def test_public_names_resolve():
    for name in flashvsr.__all__:
        assert getattr(flashvsr, name) is not None
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = flashvsr.nothing
