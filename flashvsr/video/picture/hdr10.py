"""HDR metadata that lie beside the pixels of a frame."""

from __future__ import annotations

import struct
from fractions import Fraction

import av

from flashvsr.video.picture.pixels import side_data

_DYNAMIC = {"DYNAMIC_HDR_PLUS": "HDR10+", "DYNAMIC_HDR_VIVID": "HDR Vivid", "DOVI_METADATA": "Dolby Vision"}


def hdr10_metadata(frame: av.VideoFrame) -> tuple[str | None, str | None]:
    """Mastering display and content light level of a frame, in the notation of x265.

    Reference:
        SMPTE ST 2086 and CTA-861.3; the structures AVMasteringDisplayMetadata and AVContentLightMetadata of FFmpeg.
    """
    mastering = light = None
    packed = side_data(frame, "MASTERING_DISPLAY_METADATA")
    if packed is not None:
        numbers = struct.unpack("=22i", packed[:88])
        has_primaries, has_luminance = numbers[20:]
        if has_primaries and has_luminance and all(numbers[1:20:2]):
            values = [Fraction(numbers[i], numbers[i + 1]) for i in range(0, 20, 2)]
            red, green, blue, white = (
                "({},{})".format(*(round(value * 50000) for value in values[i : i + 2])) for i in (0, 2, 4, 6)
            )
            lowest, highest = (round(value * 10000) for value in values[8:])
            mastering = f"G{green}B{blue}R{red}WP{white}L({highest},{lowest})"
    packed = side_data(frame, "CONTENT_LIGHT_LEVEL")
    if packed is not None:
        light = "{},{}".format(*struct.unpack("=2I", packed[:8]))
    return mastering, light


def dynamic_metadata(frame: av.VideoFrame) -> list[str]:
    """Names of the kinds of metadata of a frame that tell players how to show these very pixels."""
    return [name for kind, name in _DYNAMIC.items() if side_data(frame, kind) is not None]
