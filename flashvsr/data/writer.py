"""Writing video: a file, a pipe, or a folder of images."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from torch import Tensor

from flashvsr.data.info import VideoInfo
from flashvsr.data.video import VideoReader

SEGMENT_SUFFIX = ".nut"
"""Name segments ``something.nut``: NUT takes every codec and keeps absolute times exactly, which ``join_segments`` needs."""


class VideoWriter:
    """Frames into one encoded file, pipe or image folder. A context manager: ``close`` on success, ``abort`` on error.

    Writes at ``target`` itself: give it a temporary name and rename when all is done.

    Args:
        target: A file name (its ending picks the container), ``"-"`` for stdout, a folder (a name without an
            ending, or an existing folder) or printf pattern ``"dir/%05d.png"`` for PNG images.
        width: Columns of every frame.
        height: Rows of every frame.
        info: Of the source: bit depth, colour tags, frame rate, time base and pixel aspect are carried over.
        codec: ``"auto"``: H.264 (libx264) for 8-bit SDR, 10-bit HEVC (libx265, tag hvc1) for HDR or deeper sources;
            or the name of any video encoder of PyAV.
        crf: Quality of the encoder, lower is better; 16 is visually lossless for x264 and x265.
        format: ``"auto"``: by the ending of ``target``, Matroska for stdout; or ``"matroska"``, ``"nut"``, ``"y4m"``,
            ``"mpegts"``, ``"mp4"``, ``"mov"``, ``"webm"``...
        copy_tracks_from: A reader, not yet iterated, whose audio and subtitle packets are copied while its frames are
            read (one pass, so it works for stdin); None writes pictures only. For segments use None and let
            ``join_segments`` copy the tracks.

    Attributes:
        warnings: One line each: tracks that the container does not take, and the like.
        codec: The encoder in use (``"png"`` for images).

    Raises:
        VideoError: Unknown codec or container, MP4 to a pipe, unwritable folder, disk full, reader of the pipe gone.
    """

    warnings: list[str]
    codec: str

    def __init__(
        self,
        target: str | Path,
        *,
        width: int,
        height: int,
        info: VideoInfo,
        codec: str = "auto",
        crf: float = 16,
        format: str = "auto",
        copy_tracks_from: VideoReader | None = None,
    ) -> None:
        raise NotImplementedError

    def write(self, pixels: Tensor, time: Fraction) -> None:
        """Append a frame.

        Args:
            pixels: `[3, H, W]` RGB on any device, uint8 or float in [0, 1] (clamped).
            time: Seconds since the first frame of the *source*; must increase.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Flush the encoder and finish the file. Safe to call twice."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close without finishing and delete what was written."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
