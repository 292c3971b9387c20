"""Clips of training shards: H.264 in memory, made to be sought in."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av
import torch
from torch import Tensor

from flashvsr.video.info import Colors
from flashvsr.video.picture.pixels import FromRGB, tag
from flashvsr.video.write.codecs import x264_assembly

_SDR = Colors(primaries=1, transfer=1, matrix=1, range=1)
_KEY_FRAME_EVERY = 12  # frames: what a reader decodes in vain before a random frame


class ClipEncoder:
    """H.264 in MP4 in memory: constant rate, key frames close together, one thread so that bytes repeat.

    Args:
        size: Width and height; even.
        rate: Frames per second.
        crf: Quality, lower is better.

    Attributes:
        size: As given.
        rate: As given.
        frames: Written so far.
    """

    def __init__(self, size: tuple[int, int], rate: Fraction, crf: float) -> None:
        self.size, self.rate, self.frames = size, rate, 0
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4", container_options={"fflags": "+bitexact"})
        settings = {"crf": f"{crf:g}", "preset": "medium", "threads": "1", "flags": "+bitexact"}
        fixed = f"keyint={_KEY_FRAME_EVERY}:scenecut=0:open-gop=0:bframes=2:threads=1"
        settings["x264-params"] = fixed + x264_assembly()
        self._stream: Any = self._container.add_stream("libx264", rate=self.rate, options=settings)
        self._stream.width, self._stream.height = self.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = 1 / self.rate
        tag(self._stream.codec_context, _SDR)
        self._to_frame = FromRGB("yuv420p", _SDR)

    def write(self, pixels: Tensor) -> None:
        """Append a frame `[3, h, w]`, SDR, uint8 or float in [0, 1]; one of another size is resized (bicubic)."""
        width, height = self.size
        if pixels.shape[1:] != (height, width):
            smooth = pixels.float() / (255 if pixels.dtype == torch.uint8 else 1)
            pixels = torch.nn.functional.interpolate(
                smooth[None], (height, width), mode="bicubic", antialias=True, align_corners=False
            )[0].clamp_(0, 1)
        frame = self._to_frame(pixels)
        frame.pts, frame.time_base = self.frames, 1 / self.rate
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> bytes:
        """Finish; the whole file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._buffer.getvalue()
