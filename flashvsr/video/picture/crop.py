"""The part of a picture that its container shows."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from flashvsr.video.matroska import VIDEO, described, elements, inside

UNALIGNED = 1
"""AV_CODEC_FLAG_UNALIGNED: decoders cut off hidden columns on the left exactly, not only down to a round address."""

_EDGES = {b"\x54\xbb": "top", b"\x54\xaa": "bottom", b"\x54\xcc": "left", b"\x54\xdd": "right"}


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

    The codec's own cropping is applied by the decoder.

    Args:
        stream: Of an input.

    Returns:
        The edges; zeros when nothing is to be cropped.
    """
    video = inside(described(stream), VIDEO)
    return Crop(**{_EDGES[one.name]: int.from_bytes(one.content) for one in elements(video) if one.name in _EDGES})
