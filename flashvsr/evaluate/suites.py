"""Public test sets as they lie on disk: REDS4, YouHQ40, SPMCS, UDM10, VideoLQ, and any folder of clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashvsr.evaluate.clips import PHOTOS, VIDEOS, frame_files


@dataclass(frozen=True)
class Suite:
    """A test set and the layouts it is known in.

    Attributes:
        title: For people.
        names: The clips; empty when any name will do.
        count: How many clips there are; None for any number from 1.
        places: Where the clips may lie, below the folder a person gives; the first that fits is taken.
        inside: Where the frames may lie, below a clip.
        has_truth: Whether the frames are ground truth; otherwise they are LR.
    """

    title: str
    names: tuple[str, ...] = ()
    count: int | None = None
    places: tuple[str, ...] = ("", "GT")
    inside: tuple[str, ...] = ("",)
    has_truth: bool = True


SUITES = {
    "reds4": Suite(
        "REDS4",
        names=("000", "011", "015", "020"),
        places=("train_sharp", "train/train_sharp", "GT", "", "val_sharp", "val/val_sharp"),
    ),
    "youhq40": Suite("YouHQ40", count=40),
    "spmcs": Suite("SPMCS", count=30, places=("", "test_set", "GT"), inside=("truth", "")),
    "udm10": Suite("UDM10", count=10, places=("GT", "")),
    "videolq": Suite("VideoLQ", count=50, places=("", "Input", "LQ"), has_truth=False),
}
"""By the name a person gives."""


@dataclass(frozen=True)
class FoundSuite:
    """A test set on this machine.

    Attributes:
        name: As given: one of :data:`SUITES`, or a folder.
        suite: What it is.
        place: Where the clips lie below the folder given; empty when directly in it.
        clips: Folder of frames or video file of each clip, by name, sorted.
    """

    name: str
    suite: Suite
    place: str
    clips: dict[str, Path]

    @property
    def cautions(self) -> list[str]:
        """What to know before calling these clips by the name of the test set."""
        folders = {clip.parent.name for clip in self.clips.values()}
        if self.name == "reds4" and folders & {"val", "val_sharp"}:
            return [
                "These clips are of the validation set of REDS: REDS4 are those of train_sharp with the same numbers."
            ]
        return []


def find_suite(name: str, root: Path | None = None, *, has_truth: bool = True) -> FoundSuite:
    """Find the clips of a test set.

    Args:
        name: One of :data:`SUITES`, or a folder of clips: folders of numbered images, or videos; a folder that itself
            holds numbered images is one clip.
        root: Where a test set of :data:`SUITES` lies; None for a folder of clips.
        has_truth: Of a folder of clips: whether they are ground truth, otherwise LR.

    Returns:
        Its clips.

    Raises:
        ValueError: If `name` is neither, or goes with a `root` and has none, or the other way round.
        FileNotFoundError: If the clips are not there, or not laid out as expected.
        VideoError: If a frame is missing in a clip.
    """
    if name not in SUITES:
        if not Path(name).is_dir():
            raise ValueError(f"suites are {', '.join(SUITES)}, or a folder of clips; got {name!r}, which is no folder")
        if root is not None:
            raise ValueError(f"the suite {name} is a folder itself: leave out --data {root}")
        return _find_folder(Path(name), has_truth)
    if root is None:
        raise ValueError(f"the suite {name} lies in a folder: name it with --data")
    suite = SUITES[name]
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is no folder; expected {describe(suite)}")
    for place in suite.places:
        for clips in _laid_out(root / place, suite.inside):
            chosen = {clip: clips[clip] for clip in suite.names if clip in clips} if suite.names else clips
            if len(chosen) == (len(suite.names) or suite.count):
                return FoundSuite(name, suite, place, _checked(chosen))
    raise FileNotFoundError(
        f"{root} is not laid out as {suite.title} is\nexpected: {describe(suite)}\nfound: {_seen(root, suite)}\n"
        "for other clips, give their folder: --suite FOLDER"
    )


def describe(suite: Suite) -> str:
    """Describe the layout of a test set."""
    which = f"the clips {', '.join(suite.names)}" if suite.names else f"{suite.count} clips"
    inside = " or ".join(f"CLIP/{part}/*.png" if part else "CLIP/*.png" for part in suite.inside)
    below = " or ".join(f"{place}/" for place in suite.places if place)
    return f"{which} as {inside} with numbered frames, directly in the folder or in {below}"


def _find_folder(folder: Path, has_truth: bool) -> FoundSuite:
    suite = Suite(folder.resolve().name, inside=("", "truth"), has_truth=has_truth)
    if frame_files(folder):
        return FoundSuite(str(folder), suite, "", {suite.title: folder})
    for place in suite.places:
        at = folder / place
        videos = {file.name: file for file in _entries(at) if file.suffix.lower() in VIDEOS and file.is_file()}
        clips = _checked({**next(_laid_out(at, suite.inside), {}), **videos})
        if clips:
            return FoundSuite(str(folder), suite, place, dict(sorted(clips.items())))
    raise FileNotFoundError(
        f"{folder} holds no clips\nexpected: CLIP/*.png with numbered frames, or videos, directly in it or in GT/\n"
        f"found: {_listed(_entries(folder))}"
    )


def _laid_out(folder: Path, inside: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Folders of numbered images by clip, for each place in a clip that has any."""
    for part in inside:
        clips = {clip.name: clip / part for clip in _entries(folder) if clip.is_dir() and _has_images(clip / part)}
        if clips:
            yield clips


def _has_images(folder: Path) -> bool:
    """Whether there is a numbered image; the others are looked at when the clip is taken."""
    return folder.is_dir() and any(
        file.suffix.lower() in PHOTOS and file.stem[-1:].isdecimal() for file in folder.iterdir()
    )


def _checked(clips: dict[str, Path]) -> dict[str, Path]:
    """The clips, no frame of which is missing."""
    for folder in clips.values():
        frame_files(folder)
    return clips


def _seen(root: Path, suite: Suite) -> str:
    """What there is instead: the place that comes nearest."""
    near: list[tuple[int, int, str]] = []
    for place in suite.places:
        for clips in _laid_out(root / place, suite.inside):
            lacking = [clip for clip in suite.names if clip not in clips]
            words = f"{len(clips)} clips in {root / place} ({_listed([Path(clip) for clip in clips])})"
            near.append((len(lacking), -len(clips), words + (f", without {', '.join(lacking)}" if lacking else "")))
    return min(near)[2] if near else f"{_listed(_entries(root))}, and no clip among it"


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _listed(paths: Sequence[Path]) -> str:
    names = [path.name for path in paths]
    if not names:
        return "nothing"
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
