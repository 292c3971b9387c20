"""The writing end of a run: finished frames into one file, or into segments that a later run can go on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashvsr.upscale.journal import Journal
from flashvsr.upscale.record import Boundary
from flashvsr.upscale.target import Target
from flashvsr.video import WHOLE, Trim, VideoError, VideoWriter, join_segments


@dataclass(frozen=True)
class Piece:
    """Some frames in a row, on their way to the encoder.

    Attributes:
        frames: `[T, 3, H, W]`, uint8 or floating point in [0, 1], in main memory.
        times: Seconds since the clip's first frame, one per frame.
        alphas: Opacity of the input's frames, `[h, w]` in [0, 1] each; None where they are opaque or it is not kept.
        arrived: What to wait for before ``frames`` may be read: the copy from the GPU. None when they are there.
    """

    frames: Tensor
    times: list[Fraction]
    alphas: list[Tensor | None]
    arrived: torch.cuda.Event | None = None

    @classmethod
    def fetch(cls, frames: Tensor, times: list[Fraction], alphas: list[Tensor | None]) -> Piece:
        """Start to copy frames into main memory, without waiting when they come from a GPU."""
        if frames.device.type != "cuda":
            return cls(frames.cpu(), times, alphas)
        host = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        host.copy_(frames, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(frames.device))
        return cls(host, times, alphas, arrived)

    def write_to(self, writer: VideoWriter) -> None:
        """Encode the frames, in order."""
        if self.arrived is not None:
            self.arrived.synchronize()
        for pixels, time, alpha in zip(self.frames, self.times, self.alphas, strict=True):
            writer.write(pixels, time, alpha)


@dataclass(frozen=True)
class Cut:
    """The end of a segment.

    Attributes:
        boundary: Where it is.
        state: All it takes to go on there, for ``torch.save``; None at the end of the clip.
    """

    boundary: Boundary
    state: dict[str, Any] | None


def encode_whole(items: Iterator[Piece | Cut], writer: VideoWriter) -> None:
    """Write all pieces into one file or pipe; on an error what was written is deleted."""
    with writer:
        for item in items:
            if isinstance(item, Piece):
                item.write_to(writer)


def encode_segments(
    items: Iterator[Piece | Cut],
    journal: Journal,
    open_segment: Callable[[], tuple[Path, VideoWriter]],
    first: tuple[Path, VideoWriter],
    on_snapshot: Callable[[Boundary, int], None],
) -> None:
    """Write pieces into segments, and make each one count as soon as it is closed.

    Args:
        items: Pieces and cuts; the last item is the cut that ends the clip, and there are frames between any two cuts.
        journal: The partial folder.
        open_segment: Starts the next segment.
        first: The segment that is open already.
        on_snapshot: Told where each snapshot is and its size in bytes.
    """
    path, writer = first
    while True:
        with writer:
            cut = _write_until_cut(items, writer)
        if cut.state is None:
            journal.finish(path, cut.boundary)
            return
        on_snapshot(cut.boundary, journal.close_segment(path, cut.boundary, cut.state))
        path, writer = open_segment()


def _write_until_cut(items: Iterator[Piece | Cut], writer: VideoWriter) -> Cut:
    for item in items:
        if isinstance(item, Cut):
            return item
        item.write_to(writer)
    raise RuntimeError("the frames ended without a last cut")


def try_join(segment: Path, joined: Path, *, format: str) -> None:
    """Join a segment of one frame as a trial, and delete it and the result.

    Args:
        segment: A closed segment.
        joined: Where the result will be put together.
        format: Container; ``"auto"`` goes by the ending.

    Raises:
        VideoError: If segments of this codec cannot be joined in this container.
    """
    try:
        join_segments([segment], joined, format=format)
        joined.unlink()
    except VideoError as error:
        reason = str(error).splitlines()[0].replace(str(joined), joined.suffix)
        raise VideoError(f"segments cannot be joined: {reason}\nuse --no-resume, which writes none") from error
    finally:
        segment.unlink()


def join(journal: Journal, target: Target, source: str, *, format: str, trim: Trim = WHOLE) -> list[str]:
    """Join the closed segments, and the source's audio and subtitles, under a temporary name.

    It may be interrupted and repeated.

    Args:
        journal: A partial folder at stage ``"written"``; ``"joined"`` afterwards.
        target: The output.
        source: The input, for its tracks.
        format: Container; ``"auto"`` goes by the ending.
        trim: The part of the input that was upscaled.

    Returns:
        Warnings, one line each.
    """
    joined = journal.joined(target.suffix)
    warnings: list[str] = []
    if target.is_images:
        joined.mkdir(exist_ok=True)
        for image in (image for segment in journal.segments() for image in segment.iterdir()):
            image.replace(joined / image.name)
    else:
        last = journal.record.boundary.last_duration
        warnings = join_segments(
            journal.segments(), joined, source=source, format=format, last_duration=last, trim=trim
        )
    journal.mark_joined(joined)
    return warnings
