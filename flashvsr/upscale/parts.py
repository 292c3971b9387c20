"""Parts of one video, which begin at scene cuts, so that each can be upscaled without the others.

A run starts the model anew at every cut it finds. A part that begins at one, and knows what the cuts after it are
judged by, so gives the frames that the whole run would give.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flashvsr.upscale.errors import ResumeError
from flashvsr.upscale.journal import PARTS
from flashvsr.upscale.record import FRESH, START_OVER
from flashvsr.video import REMEMBERED, VideoError, VideoFrame, VideoReader, mark_cuts

PLAN = "plan.pt"
NEAR = Fraction(8)  # seconds on either side of where a part should begin, that are looked at first
FARTHER = 4  # times as far each time that there was no cut


class Seam(NamedTuple):
    """A cut at which two parts meet.

    Attributes:
        time: Of the first frame behind it, in seconds since the clip's first frame.
        digest: Of that frame, so that one read from the middle of a file can be compared with it.
        before: Thumbnails of the frames before it.
    """

    time: Fraction
    digest: str
    before: tuple[Tensor, ...]


@dataclass(frozen=True)
class Part:
    """A part of a video, from one seam to the next.

    Attributes:
        number: From 1.
        start: Where it begins; None is the beginning of the clip.
        end: Where the next one begins; None is the end of the clip.
    """

    number: int = 1
    start: Seam | None = None
    end: Seam | None = None

    @property
    def begin(self) -> Fraction:
        """When its first frame is shown, in seconds since the clip's first frame."""
        return Fraction(0) if self.start is None else self.start.time

    @property
    def state(self) -> dict[str, Any] | None:
        """What `Scenes` take at its first frame."""
        return None if self.start is None else {"stream": None, "thumbnails": list(self.start.before)}

    def of(self, frames: Iterable[VideoFrame], *, from_the_first: bool, source: str) -> Iterator[VideoFrame]:
        """Its frames, and the first one of the next part, by which the last one is judged.

        Args:
            frames: Of the video, in order, from one of the part on.
            from_the_first: Whether that is its first.
            source: Name of the video.

        Raises:
            VideoError: If a frame at a seam is not the one that was there when the seam was chosen.
        """
        expected = self.start if from_the_first else None
        for frame in frames:
            is_over = self.is_over(frame)
            expected = self.end if is_over else expected
            if expected is not None and (frame.time, digest(frame)) != (expected.time, expected.digest):
                raise VideoError(_differs(source, expected))
            yield frame
            if is_over:
                return
            expected = None
        if self.end is not None:
            raise VideoError(_differs(source, self.end))

    def is_over(self, frame: VideoFrame) -> bool:
        """Whether a frame is one of the next part."""
        return self.end is not None and frame.time >= self.end.time


def _differs(source: str, seam: Seam) -> str:
    return (
        f"{source} does not give the same frame at {float(seam.time):.3f} s each time it is read from its middle\n"
        "re-mux it, or upscale it without --segments"
    )


WHOLE_CLIP = Part()
"""The only part of a video that is upscaled as one."""


def digest(frame: VideoFrame) -> str:
    """16 hexadecimal digits over the pixels of a frame."""
    return hashlib.sha256(frame.pixels.cpu().numpy().tobytes()).hexdigest()[:16]


def parts_between(seams: Sequence[Seam]) -> list[Part]:
    """The parts that meet at these seams."""
    ends = [None, *seams, None]
    return [Part(number, ends[number - 1], ends[number]) for number in range(1, len(ends))]


def find_seams(open_at: Callable[[Fraction], VideoReader], count: int) -> list[Seam]:
    """The scene cuts nearest to where parts of equal length would begin.

    Only the surroundings of those places are read, where the file can be entered there; else all of it is, once.

    Args:
        open_at: Opens the video at a time, in seconds since the clip's first frame.
        count: Parts that are wanted.

    Returns:
        Their seams; fewer than ``count - 1`` where a place has no cut that is nearer to it than to the places beside.

    Raises:
        VideoError: If the video cannot be read.
    """
    with open_at(Fraction(0)) as reader:
        info = reader.info
        if not reader.enters or not info.frames or not info.frame_rate:
            last = Fraction(0)

            def noted() -> Iterator[VideoFrame]:
                nonlocal last
                for frame in reader:
                    last = frame.time
                    yield frame

            cuts = list(_cuts(noted()))
            return _nearest(count, last, lambda place, radius: cuts)

    lead = (REMEMBERED + 1) / info.frame_rate

    def around(place: Fraction, radius: Fraction) -> list[Seam]:
        with open_at(max(Fraction(0), place - radius - lead)) as reader:
            return list(_cuts(reader, place + radius))

    return _nearest(count, info.frames / info.frame_rate, around)


def _nearest(count: int, length: Fraction, around: Callable[[Fraction, Fraction], list[Seam]]) -> list[Seam]:
    """For each place the cut nearest to it, of those that are not nearer to another place."""
    found: list[Seam] = []
    most = length / (2 * count)
    for number in range(1, count):
        place, radius = length * number / count, min(NEAR, most)
        while True:
            near = [seam for seam in around(place, radius) if -radius <= seam.time - place < radius]
            if near or radius == most:
                break
            radius = min(FARTHER * radius, most)
        found += [min(near, key=lambda seam: abs(seam.time - place))] if near else []
    return found


def _cuts(frames: Iterable[VideoFrame], stop: Fraction | None = None) -> Iterator[Seam]:
    """Cuts before ``stop``, but for those among the first frames, which are not judged by as many before."""
    before: deque[Tensor] = deque(maxlen=REMEMBERED)
    for marked in mark_cuts(frames):
        if stop is not None and marked.frame.time >= stop:
            return
        if marked.is_cut and len(before) == REMEMBERED:
            yield Seam(marked.frame.time, digest(marked.frame), tuple(before))
        if marked.thumbnail is not None:
            before.append(marked.thumbnail)


def has_plan(folder: Path) -> bool:
    """Whether the seams of a run are in its partial folder."""
    return (folder / PARTS / PLAN).exists()


def write_plan(folder: Path, seams: Sequence[Seam]) -> None:
    """Keep the seams of a run in its partial folder."""
    place = folder / PARTS
    place.mkdir(exist_ok=True)
    torch.save([(str(seam.time), seam.digest, list(seam.before)) for seam in seams], place / FRESH)
    (place / FRESH).replace(place / PLAN)


def read_plan(folder: Path) -> list[Seam]:
    """The seams of a run, from its partial folder.

    Raises:
        ResumeError: If they cannot be read.
    """
    path = folder / PARTS / PLAN
    try:
        kept = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ResumeError(f"{path} cannot be read: {START_OVER}") from error
    return [Seam(Fraction(time), digest, tuple(before)) for time, digest, before in kept]


def part_folder(folder: Path, part: Part) -> Path:
    """Where a part is upscaled, in the partial folder of its run."""
    return folder / PARTS / str(part.number)
