"""Real video encoders at a target bit rate, frames streaming through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import cast

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import VideoReformatter
from torch import Tensor

from flashvsr.data.degrade.random_walk import pick
from flashvsr.data.degrade.settings import Codec
from flashvsr.video.write.codecs import x264_assembly

# bilinear (2), full chroma interpolation in and out, accurate rounding, the same on every CPU
_SCALE_FLAGS = 2 | 0x2000 | 0x4000 | 0x40000 | 0x80000
_DECODERS = {"libx264": "h264", "mpeg4": "mpeg4", "libx265": "hevc", "libvpx-vp9": "vp9"}
_OPTIONS = {
    "libx264": {"preset": "veryfast", "x264-params": f"threads=1:lookahead-threads=1:log-level=-1{x264_assembly()}"},
    "mpeg4": {},
    "libx265": {"preset": "ultrafast", "x265-params": "pools=none:frame-threads=1:log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
}
_SMALLEST = 32
_RATE = Fraction(25)  # frames per second, to which rate controls are tuned
_PAPER_PIXELS = 256 * 256


class CodecDraw:
    """The encoder of one clip and its budget.

    Attributes:
        active: Whether this clip is encoded.
        codec: FFmpeg's name of the encoder.
        bits: Per frame.
    """

    def __init__(self, settings: Codec, rng: np.random.Generator, *, pixels: int) -> None:
        self.active = bool(rng.random() < settings.probability)
        self.codec = pick(rng, settings.codecs)
        self.bits = round(float(rng.uniform(*settings.bits)) * pixels / _PAPER_PIXELS)


class CodecPass:
    """An encoder and a decoder behind it: frames in, the same number of worse frames out, some pushes later.

    The encoder runs in one thread with a fast preset, its own rate control and its own choice of frame types, so the
    same frames give the same result. Sides are padded to even numbers of at least 32, by repeating, for 4:2:0 colour.

    Args:
        codec: ``"libx264"``, ``"mpeg4"``, ``"libx265"`` or ``"libvpx-vp9"``.
        height: Rows of every frame.
        width: Columns of every frame.
        bits: Target per frame, positive; encoders miss it on short clips.

    Raises:
        ValueError: If the codec is another one.
    """

    def __init__(self, codec: str, height: int, width: int, bits: int) -> None:
        if codec not in _DECODERS:
            raise ValueError(f"codec {codec!r}: expected one of {', '.join(_DECODERS)}")
        self._size = height, width
        self._padded = max(_SMALLEST, height + height % 2), max(_SMALLEST, width + width % 2)
        self._encoder = cast(av.VideoCodecContext, av.CodecContext.create(codec, "w"))
        self._encoder.height, self._encoder.width = self._padded
        self._encoder.pix_fmt = "yuv420p"
        self._encoder.time_base, self._encoder.framerate = 1 / _RATE, _RATE
        bit_rate = max(1000, round(bits * _RATE))  # x264 counts in thousands
        self._encoder.bit_rate = self._encoder.bit_rate_tolerance = bit_rate
        self._encoder.thread_count = 1
        self._encoder.options = _OPTIONS[codec]
        self._decoder = cast(av.VideoCodecContext, av.CodecContext.create(_DECODERS[codec], "r"))
        self._decoder.thread_count = 1
        self._to_yuv, self._to_rgb = VideoReformatter(), VideoReformatter()
        self._pushed = self._returned = 0

    def push(self, frame: Tensor) -> list[Tensor]:
        """Encode uint8 `[3, H, W]`; what has come out of the decoder, in order."""
        picture = av.VideoFrame.from_ndarray(self._pad(frame).permute(1, 2, 0).contiguous().numpy(), format="rgb24")
        picture = self._to_yuv.reformat(picture, format="yuv420p", interpolation=_SCALE_FLAGS)
        picture.pts, picture.time_base = self._pushed, 1 / _RATE
        self._pushed += 1
        return self._decode(self._encoder.encode(picture))

    def finish(self) -> list[Tensor]:
        """The frames that were still inside.

        Raises:
            RuntimeError: If the codec lost frames.
        """
        frames = self._decode(self._encoder.encode(None))
        frames += [self._picture(picture) for picture in self._decoder.decode(None)]
        if self._returned != self._pushed:
            raise RuntimeError(f"{self._encoder.name} gave back {self._returned} of {self._pushed} frames")
        return frames

    def _decode(self, packets: list[av.Packet]) -> list[Tensor]:
        return [self._picture(picture) for packet in packets for picture in self._decoder.decode(packet)]

    def _pad(self, frame: Tensor) -> Tensor:
        bottom, right = (whole - part for whole, part in zip(self._padded, self._size, strict=True))
        if not bottom and not right:
            return frame
        return F.pad(frame[None].float(), (0, right, 0, bottom), mode="replicate")[0].to(torch.uint8)

    def _picture(self, picture: av.VideoFrame) -> Tensor:
        self._returned += 1
        rgb = self._to_rgb.reformat(picture, format="rgb24", interpolation=_SCALE_FLAGS).to_ndarray()
        return torch.from_numpy(rgb).permute(2, 0, 1)[:, : self._size[0], : self._size[1]]


def through_codec(frames: Iterable[Tensor], codec: str, bits: int) -> Iterator[Tensor]:
    """Frames of one size, uint8 `[3, H, W]`, after an encoder with this many bits per frame; as many as came."""
    inside: CodecPass | None = None
    for frame in frames:
        inside = inside or CodecPass(codec, frame.shape[-2], frame.shape[-1], bits)
        yield from inside.push(frame)
    if inside is not None:
        yield from inside.finish()
