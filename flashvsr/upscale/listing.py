"""Which files a folder or a list stands for, and what their results are called."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from flashvsr.upscale.target import LONGEST_NAME, Target
from flashvsr.video import PICTURE_SUFFIXES, is_pattern, is_picture

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".vob", ".wmv", ".asf"),
    *(".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".ogm", ".mxf", ".nut", ".dv", ".y4m", ".ivf", ".gif", ".avif"),
    *(".264", ".h264", ".265", ".h265", ".hevc", ".m2v"),
)
KEPT = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
"""Endings of videos that the result keeps; others become ``.mkv``, which takes nearly every kind of sound."""

_ENDINGS = {"matroska": ".mkv", "mpegts": ".ts", "yuv4mpegpipe": ".y4m"}
_NUMBERED = re.compile(r"(.*?)(\d+)(\D*)")


@dataclass(frozen=True)
class FilePair:
    """One file of a list.

    Attributes:
        source: The input.
        output: Where its result goes.
    """

    source: Path
    output: Path


def find_files(
    inputs: Sequence[str | Path], output: str | Path, *, glob: str | None = None, format: str = "auto"
) -> list[FilePair] | None:
    """Tell one video from a list of files, each of which is upscaled on its own.

    With an output that is a folder (a name without an ending, or an existing folder) these are lists:

    * several inputs, or one that is a picture;
    * any folder when ``glob`` is given;
    * a folder that holds a video, or only pictures of which none is one of a numbered series.

    A folder of pictures numbered without a gap is one video, as is every folder when the output is a video or a printf
    pattern. What lies between is refused.

    Args:
        inputs: Files and folders.
        output: A folder for a list.
        glob: Files of a folder that are wanted, such as ``"*.mp4"``; ``"**/*"`` goes into its folders, too. Files
            without the ending of a video or a picture are left out unless the pattern states their ending; hidden files
            are left out.
        format: Container; ``"auto"`` keeps the endings of videos in ``KEPT``, others become ``.mkv``. Pictures become
            ``.png``.

    Returns:
        Files and where their results go, in the order given, those of a folder by name; None for one video.

    Raises:
        ValueError: If a list has no folder to go to, a folder may be meant either way or has no such files, or a pipe
            is in a list.
    """
    paths = [Path(name) for name in inputs]
    folder = not is_pattern(Path(output).name) and Target.parse(output).kind == "folder"
    if len(paths) == 1 and glob is None:
        single = paths[0]
        if not folder or not (single.is_dir() or is_picture(single)):
            return None
        if single.is_dir() and _is_one_video(single):
            return None
    if not folder:
        raise ValueError(f"{output} is no folder: a list of files needs one, a name without an ending")
    pairs: list[FilePair] = []
    for path in paths:
        if str(path) in ("-", "example:"):
            raise ValueError(f"{path} cannot be in a list: give it alone")
        if path.is_dir() and path.resolve() == Path(output).resolve():
            raise ValueError(f"{path} is both input and output: choose another output")
        files = _files_in(path, Path(output), glob or "*") if path.is_dir() else [path]
        root = path if path.is_dir() else path.parent
        pairs += [FilePair(file, _output_of(file, root, Path(output), format)) for file in files]
    return pairs


def known_ending(path: Path) -> bool:
    """Whether a name ends as those of videos and pictures do."""
    return path.suffix.lower() in (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES)


def _is_one_video(folder: Path) -> bool:
    """Whether a folder is a series of images.

    Raises:
        ValueError: If it may be that, and may be a collection of pictures.
    """
    files = [path for path in folder.iterdir() if known_ending(path) and not path.name.startswith(".")]
    if not all(path.suffix.lower() in PICTURE_SUFFIXES for path in files):
        return False
    series: dict[tuple[str, str], list[int]] = {}
    for path in files:
        if match := _NUMBERED.fullmatch(path.name):
            series.setdefault((match[1], match[3].lower()), []).append(int(match[2]))
    numbered = {key: sorted(numbers) for key, numbers in series.items() if len(numbers) > 1}
    if not numbered:
        return False
    numbers = next(iter(numbered.values()))
    if len(numbers) == len(files) and all(later - number == 1 for number, later in pairwise(numbers)):
        return True
    raise ValueError(
        f"{folder} may be one video or separate pictures: only some of its pictures are numbered one after another\n"
        "for one video write to a pattern such as OUTPUT/%05d.png, for separate pictures add --glob '*'"
    )


def _files_in(folder: Path, output: Path, glob: str) -> list[Path]:
    """The files of a folder that are wanted, by name, without those of the output."""
    stated = re.fullmatch(r"\.\w+", Path(glob).suffix) is not None
    ours = output.resolve()
    found = [
        path
        for path in sorted(folder.glob(glob))
        if path.is_file()
        and (stated or known_ending(path))
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and ours not in path.resolve().parents
    ]
    if not found:
        raise ValueError(f"{folder} holds no video or picture for --glob '{glob}'; '**/*' looks into its folders, too")
    return found


def _output_of(file: Path, root: Path, output: Path, format: str) -> Path:
    ending = file.suffix.lower()
    if ending in PICTURE_SUFFIXES and is_picture(file):
        ending = ".png"
    elif format != "auto":
        ending = _ENDINGS.get(format, f".{format}")
    elif ending not in KEPT:
        ending = ".mkv"
    stem = file.name if file.suffix == "" else file.name[: -len(file.suffix)]
    while len(os.fsencode(stem + ending)) > LONGEST_NAME:
        stem = stem[:-1]
    name = stem + (file.suffix if ending == file.suffix.lower() else ending)
    if is_pattern(name):
        name = name.replace("%", "_")  # as an output it would stand for many images
    return output / file.relative_to(root).with_name(name)


def same_outputs(pairs: Iterable[FilePair]) -> dict[Path, Path]:
    """Outputs that an earlier file of the list has, too: which later source, and the source that comes first.

    Names that differ in case only are the same on most systems of Windows and macOS.
    """
    first: dict[str, Path] = {}
    clashes: dict[Path, Path] = {}
    for pair in pairs:
        earlier = first.setdefault(str(pair.output).casefold(), pair.source)
        if earlier != pair.source:
            clashes[pair.source] = earlier
    return clashes
