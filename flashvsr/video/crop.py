"""The part of a picture that its container shows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import av
from torch import Tensor

UNALIGNED = 1
"""AV_CODEC_FLAG_UNALIGNED: decoders cut off hidden columns on the left exactly, not only down to a round address."""

_TRACKS = (0x18538067, 0x1654AE6B, 0xAE, 0xE0)  # Segment, Tracks, TrackEntry, Video
_EDGES = {0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"}


class Crop(NamedTuple):
    """Rows and columns at each edge of the stored picture that are not to be shown."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what is shown of a stored picture."""
        return width - self.left - self.right, height - self.top - self.bottom

    def __call__(self, pixels: Tensor) -> Tensor:
        """What is shown of `[..., h, w]`."""
        height, width = pixels.shape[-2:]
        return pixels[..., self.top : height - self.bottom, self.left : width - self.right]


NO_CROP = Crop()


def container_crop(stream: Any) -> Crop:
    """What the container of a video stream says about cropping: PixelCrop of Matroska, ``clap`` of MP4 and MOV.

    The codec's own cropping is applied by the decoder. PyAV does not show what FFmpeg's demuxer knows of the
    container's, but a stream made from it does: its Matroska header is written in memory and read.

    Args:
        stream: Of an input.

    Returns:
        The edges; zeros when nothing is to be cropped.
    """
    header = io.BytesIO()
    try:
        with av.open(header, "w", format="matroska") as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
            written = header.getvalue()
    except (av.FFmpegError, ValueError):  # a codec that Matroska does not take; raw streams have no container either
        return NO_CROP
    return Crop(**{_EDGES[name]: int.from_bytes(value) for name, value in _video(written) if name in _EDGES})


def _video(header: bytes) -> Iterator[tuple[int, bytes]]:
    """Settings of the picture in a Matroska header.

    Reference:
        RFC 8794, Extensible Binary Meta Language; RFC 9559, Matroska, section 5.1.4.
    """
    inside = header
    for wanted in _TRACKS:
        inside = next((content for name, content in _elements(inside) if name == wanted), b"")
    return _elements(inside)


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each element of EBML: its identifier and content."""
    at = 0
    while at < len(data):
        length = 9 - data[at].bit_length()
        name = int.from_bytes(data[at : at + length])
        at += length
        length = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + length]) & ((1 << 7 * length) - 1)
        at += length
        unknown = size == (1 << 7 * length) - 1  # up to the end
        content = data[at:] if unknown else data[at : at + size]
        at += len(content)
        yield name, content
