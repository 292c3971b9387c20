"""Which files a run looks at, what they are called, and under which licence they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flashvsr.curate import CurateError
from flashvsr.curate.rows import Row
from flashvsr.data.shard_writer import IMAGE_SUFFIXES, VIDEO_SUFFIXES

PHOTO_ENDINGS = (*IMAGE_SUFFIXES, ".tif", ".tiff", ".bmp")
_VIDEO_ENDINGS = (*VIDEO_SUFFIXES, ".mpg", ".mpeg", ".m2ts", ".mts", ".wmv", ".flv", ".3gp", ".ogv", ".y4m", ".nut")


def find_sources(sources: Sequence[str | Path]) -> tuple[list[Row], list[str]]:
    """A row for every file, in the order of their names.

    Args:
        sources: Folders, searched recursively for files with endings of videos and pictures; lists (``.txt``, a path a
            line, relative to the list's folder; ``#`` begins a comment); or files. What a file is, its content decides.

    Returns:
        The rows, each with a name of its own: the path below its folder or as its list says (an absolute path: its last
        part), with the name of the folder or list in front when there are several sources; and lines for the user
        about what was passed over.

    Raises:
        CurateError: If a source does not exist, there are no files, or two would have one name.
    """
    found: dict[str, Path] = {}
    others: Counter[str] = Counter()
    for source in map(Path, sources):
        if not source.exists():
            raise CurateError(f"{source}: no such file or folder")
        prefix = f"{source.resolve().name}/" if len(sources) > 1 and (source.is_dir() or _is_list(source)) else ""
        for path, name in _files(source, others):
            if found.setdefault(prefix + name, path) != path:
                raise CurateError(f"{path} and {found[prefix + name]} would both be called {prefix + name}\nrename one")
    if not found:
        raise CurateError(f"no videos or pictures in {', '.join(map(str, sources))}\nexpected .mp4, .mkv, .jpg, ...")
    lines = []
    if others:
        endings = ", ".join(f"{count} {ending or 'without'}" for ending, count in sorted(others.items()))
        lines.append(f"passed over {others.total()} files with other endings: {endings}")
    rows = [
        Row(str(path.absolute()), name, kind="photo" if path.suffix.lower() in PHOTO_ENDINGS else "video")
        for name, path in sorted(found.items())
    ]
    return rows, lines


def _is_list(source: Path) -> bool:
    return source.suffix.lower() == ".txt"


def _files(source: Path, others: Counter[str]) -> list[tuple[Path, str]]:
    if source.is_dir():
        files = [path for path in source.rglob("*") if path.is_file() and not path.name.startswith(".")]
        good = [path for path in files if path.suffix.lower() in _VIDEO_ENDINGS + PHOTO_ENDINGS]
        others.update(path.suffix.lower() for path in files if path not in set(good))
        return [(path, path.relative_to(source).as_posix()) for path in good]
    if not _is_list(source):
        return [(source, source.name)]
    lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    paths = [Path(line) for line in lines if line and not line.startswith("#")]
    missing = [path for path in paths if not (source.parent / path).exists()]
    if missing:
        raise CurateError(f"{source} names {missing[0]}, which does not exist ({len(missing)} such)\ncorrect the list")
    return [(source.parent / path, path.name if path.is_absolute() else path.as_posix()) for path in paths]


def read_licences(path: str | Path) -> dict[str, str]:
    """Licences by name of source.

    Args:
        path: A table with tabs: name and licence; or any columns under a header that calls them ``name`` or ``file``,
            and ``licence`` or ``license``. A name is the one in the records, or its last part.

    Raises:
        CurateError: If the file is missing or a line has no licence.
    """
    try:
        lines = [line.split("\t") for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise CurateError(f"cannot read {path}: {error.strerror}\nexpected a table of name, tab, licence") from error
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    name, licence = 0, 1
    if {"licence", "license"} & set(header):
        licence = next(number for number, cell in enumerate(header) if cell in ("licence", "license"))
        name = next((number for number, cell in enumerate(header) if cell in ("name", "file", "source")), 0)
        lines = lines[1:]
    licences: dict[str, str] = {}
    for cells in lines:
        if len(cells) <= max(name, licence):
            raise CurateError(f"{path}: {cells[0]!r} has no licence\nexpected name, tab, licence")
        licences[cells[name].strip()] = cells[licence].strip()
    return {full.rpartition("/")[2]: one for full, one in licences.items()} | licences
