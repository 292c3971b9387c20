"""A look at the result before the long run: one frame or a few seconds of a part of the picture."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashvsr.app.uploads import Upload
from flashvsr.streaming import FrameStream, StreamingModel
from flashvsr.video import VideoError, VideoFrame, VideoInfo, VideoReader, VideoWriter

FEWEST_PIXELS = 64  # of a side of the part that is shown
PARTS = {"whole": 1, "half": 2, "quarter": 4}
BAR = 2  # columns of the line between before and after


@dataclass(frozen=True)
class Comparison:
    """The same frames before and after.

    Attributes:
        before: The middle frame, enlarged by bicubic interpolation to the size of ``after``.
        after: The middle frame, upscaled.
        frames: How many frames were upscaled.
        video: Its left half as in ``before``, its right half as in ``after``; None for one frame.
    """

    before: Image.Image
    after: Image.Image
    frames: int
    video: Path | None


def part_of(height: int, width: int, part: str, x: float = 0.5, y: float = 0.5) -> tuple[int, int, int, int]:
    """A part of the picture around a point, moved inside where it would reach over a border.

    Args:
        height: Rows of the picture.
        width: Columns of the picture.
        part: ``"whole"``, ``"half"`` or ``"quarter"`` of each side, but at least 64 pixels where there are as many.
        x: The point, from 0 at the left to 1 at the right.
        y: The point, from 0 at the top to 1 at the bottom.

    Returns:
        Top, left, height and width in pixels.

    Raises:
        ValueError: If the part is unknown.
    """
    if part not in PARTS:
        raise ValueError(f"the part is {part}: expected one of {', '.join(PARTS)}")
    rows, columns = (min(side, max(FEWEST_PIXELS, side // PARTS[part])) for side in (height, width))
    top = min(max(round(y * height - rows / 2), 0), height - rows)
    left = min(max(round(x * width - columns / 2), 0), width - columns)
    return top, left, rows, columns


def read_frame(upload: Upload, second: float = 0.0) -> Image.Image:
    """The frame that is shown at a time; the last one when the video is shorter.

    Raises:
        VideoError: If the file cannot be read.
    """
    with VideoReader(upload.path) as reader:
        return _to_image(next(_from(reader, second)).pixels)


def preview(
    upload: Upload,
    model: StreamingModel,
    *,
    scale: float = 4,
    second: float = 0.0,
    seconds: float = 0.0,
    part: tuple[int, int, int, int] | None = None,
    video: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Upscale one frame or a few seconds.

    A part that is cut out is upscaled as if it were the whole picture, so near its borders it differs a little from the
    result of the long run.

    Args:
        upload: The file.
        model: What upscales.
        scale: Enlargement.
        second: Where to begin.
        seconds: How much; 0 is one frame, as is any length of a picture.
        part: Top, left, height and width in pixels; None for all.
        video: Where to write the video, as MP4; None writes none.
        progress: Told how many frames are finished, of how many.

    Returns:
        Before and after.

    Raises:
        VideoError: If the file cannot be read.
        torch.OutOfMemoryError: If the GPU's memory does not suffice.
    """
    count = 1 if upload.is_picture else max(1, round(seconds * (upload.rate or 25)))
    top, left, height, width = part or (0, 0, upload.height, upload.width)
    stream = model.stream(height=height, width=width, scale=scale, seed=0)
    rows, columns = slice(top, top + height), slice(left, left + width)
    done, middle = 0, None
    with VideoReader(upload.path) as reader:
        cut = (frame.pixels[:, rows, columns] for frame in _from(reader, second))
        rate = reader.info.frame_rate or Fraction(25)
        height, width = round(scale * height), round(scale * width)
        with _Halves(video, height, width, rate) if video and count > 1 else nullcontext() as halves:
            for before, after in _pairs(islice(cut, count), stream):
                if halves is not None:
                    halves.write(before, after)
                if middle is None or done <= count // 2:
                    middle = before, after
                done += 1
                progress(done, count)
    if middle is None:
        raise VideoError(f"{upload.name} holds no frame")
    return Comparison(*middle, done, video if halves is not None else None)


def _pairs(frames: Iterable[Tensor], stream: FrameStream) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Each frame before and after, in memory that does not grow with their number."""
    waiting: deque[Tensor] = deque()

    def pair(sr: Tensor) -> tuple[Image.Image, Image.Image]:
        after = _to_image(sr)
        return _to_image(waiting.popleft()).resize(after.size, Image.Resampling.BICUBIC), after

    for frame in frames:
        waiting.append(frame)
        yield from map(pair, stream.push(frame[None]))
    yield from map(pair, stream.finish())


class _Halves:
    """A video whose left half shows frames as they were and whose right half shows them upscaled."""

    def __init__(self, path: Path, height: int, width: int, rate: Fraction) -> None:
        self._size = height // 2 * 2, width // 2 * 2  # browsers play even sizes only
        self._rate, self._number = rate, 0
        height, width = self._size
        info = VideoInfo(width, height, rate, 1 / rate)
        self._writer = VideoWriter(path, width=width, height=height, info=info)

    def write(self, before: Image.Image, after: Image.Image) -> None:
        """Add a frame."""
        half = after.width // 2
        frame = after.copy()
        frame.paste(before.crop((0, 0, half, before.height)))
        frame.paste((255, 255, 255), (half - BAR // 2, 0, half + BAR // 2, frame.height))
        height, width = self._size
        self._writer.write(_to_tensor(frame)[:, :height, :width], self._number / self._rate)
        self._number += 1

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)


def _from(reader: VideoReader, second: float) -> Iterator[VideoFrame]:
    """Frames from a time on; the very last one if there is none."""
    last, found = None, False
    for frame in reader:
        last = frame
        if frame.time >= second:
            found = True
            yield frame
    if last is not None and not found:
        yield last


def _to_image(frame: Tensor) -> Image.Image:
    """A frame `[3, h, w]`, uint8 or floating point in [0, 1], as an 8-bit picture."""
    frame = frame.cpu()
    if frame.dtype != torch.uint8:
        frame = (frame.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
