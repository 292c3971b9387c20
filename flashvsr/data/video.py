"""Reading video from anywhere: a file, a pipe, a folder of images, or the built-in example."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from flashvsr.data.info import VideoFrame, VideoInfo


class VideoReader:
    """Frames of a video, upright, RGB, one at a time. A context manager and an iterator; iterate once.

    The first frame is decoded when the reader is made, so a file that is missing, not a video or empty fails
    there. Memory does not grow with the length of the video.

    Args:
        source: A file; ``"-"`` for stdin; a folder of images (natural order); a printf pattern such as
            ``"frames/%05d.png"``; or ``"example:"``, a clip rendered by code.
        fps: Frame rate for what has no timestamps: raw H.264/HEVC and images. None: the rate that the stream
            states, else 25 with a line in ``warnings``. Ignored (with a warning) for files that have timestamps.
        skip: Frames to decode and drop first (a resumed run); the times of the rest are unchanged.

    Attributes:
        info: What is known about the video.
        warnings: One line each, for the user; may grow while reading.

    Raises:
        VideoError: On opening or while iterating: missing, not a video, no video stream, no frames,
            truncated or damaged (says at which second, after the good frames were delivered).
    """

    info: VideoInfo
    warnings: list[str]

    def __init__(self, source: str | Path, *, fps: Fraction | None = None, skip: int = 0) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[VideoFrame]:
        raise NotImplementedError

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
