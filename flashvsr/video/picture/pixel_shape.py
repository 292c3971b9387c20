"""Pixels that are not square, on their way into an output."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from flashvsr.video import matroska
from flashvsr.video.info import VideoError, file_url, plain_errors
from flashvsr.video.tags import LENIENT

_TOLERANCE = Fraction(1, 100)
_IN_THEIR_STREAM = ("h264", "hevc", "mpeg4")  # codecs that hold any shape themselves, whatever they are put into


class PixelShape:
    """Sees to it that an output states the shape of its pixels.

    Many codecs hold it, MP4 takes it from the encoder, and Matroska gets it afterwards.

    Args:
        container: An output whose header is not written yet.
        stream: Its picture.
        aspect: Width of a pixel over its height.
    """

    def __init__(self, container: Any, stream: Any, aspect: Fraction) -> None:
        self._aspect = aspect
        self._format, self._codec = container.format.name, stream.codec_context.name
        self._size = (stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.sample_aspect_ratio = aspect
        if aspect != 1 and self._format in matroska.FORMATS:
            matroska.leave_room(stream)

    def finish(self, path: Path | None) -> list[str]:
        """Complete the finished file; lines that say what it does not hold.

        Args:
            path: The file; None for a pipe.
        """
        if self._aspect == 1:
            return []
        if path is not None and self._format in matroska.FORMATS:
            matroska.write_pixel_aspect(path, self._aspect, self._size)
        if path is None:
            held = self._codec in _IN_THEIR_STREAM
        else:
            held = abs(_stated(path) / self._aspect - 1) < _TOLERANCE
        shape = f"{self._aspect.numerator}:{self._aspect.denominator}"
        return [] if held else [f"{self._format} with {self._codec} does not hold the shape of pixels, {shape}"]


def _stated(path: Path) -> Fraction:
    try:
        with plain_errors(f"cannot read {path}", "run again"), av.open(file_url(path), **LENIENT) as container:
            return Fraction(container.streams.video[0].sample_aspect_ratio or 1)
    except (VideoError, IndexError):  # a raw stream that FFmpeg writes and does not know again
        return Fraction(1)
