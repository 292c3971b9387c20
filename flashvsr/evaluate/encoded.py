"""LR clips by FFmpeg's filters and an encoder at constant quality: other means than training degrades by."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from flashvsr.evaluate.clips import SCALE
from flashvsr.video.write.codecs import x264_assembly

MULTIPLE = 2 * SCALE  # of both sides: the encoder's colour has half the size
BLUR, NOISE, QUALITY = (0.4, 1.2), (2, 6), (22, 30)
_TIME = Fraction(1, 25)
_EXACT = (
    2 | 0x2000 | 0x4000 | 0x40000 | 0x80000
)  # swscale: bilinear, full chroma both ways, accurate rounding, bitexact


def encoded_lr(frames: Tensor, seed: int) -> Tensor:
    """A little blur and noise, area reduction to a quarter, H.264: what an ordinary small video looks like.

    Drawn from the seed, once for the clip: the standard deviation of a Gaussian blur, 0.4 to 1.2 pixels; the strength
    of temporal noise, 2 to 6 steps of 8 bits; the constant rate factor of x264, 22 to 30.

    Args:
        frames: `[T, 3, H, W]`, uint8, H and W multiples of 8.
        seed: Of everything random; the same one gives the same frames.

    Returns:
        `[T, 3, H/4, W/4]`, uint8.

    Raises:
        ValueError: If a side is no multiple of 8: the encoder's colour has half the size.
    """
    height, width = frames.shape[2:]
    if height % MULTIPLE or width % MULTIPLE:
        raise ValueError(f"frames of {height}x{width}: expected multiples of {MULTIPLE}")
    rng = np.random.default_rng(seed)
    blur, noise = rng.uniform(*BLUR), int(rng.integers(NOISE[0], NOISE[1] + 1))
    quality, grain = int(rng.integers(QUALITY[0], QUALITY[1] + 1)), int(rng.integers(1 << 20))
    small = _filtered(
        frames,
        ("gblur", f"sigma={blur:.4f}"),
        ("noise", f"alls={noise}:allf=t:all_seed={grain}"),
        ("scale", f"{width // SCALE}:{height // SCALE}:flags=area+accurate_rnd+bitexact"),
    )
    return _encoded(small, quality)


def _filtered(frames: Tensor, *filters: tuple[str, str]) -> list[av.VideoFrame]:
    """Frames behind a chain of filters, as many as came."""
    graph = av.filter.Graph()
    last: Any = graph.add_buffer(
        width=frames.shape[3],
        height=frames.shape[2],
        format=av.VideoFormat("rgb24", frames.shape[3], frames.shape[2]),
        time_base=_TIME,
    )
    for name, arguments in (*filters, ("buffersink", "")):
        link = graph.add(name, arguments) if arguments else graph.add(name)
        last.link_to(link)
        last = link
    graph.configure()
    made = []
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
        picture.pts, picture.time_base = number, _TIME
        graph.push(picture)
        made.append(cast(av.VideoFrame, graph.pull()))
    return made


def _encoded(pictures: list[av.VideoFrame], quality: int) -> Tensor:
    """Frames after x264 in one thread, `[T, 3, h, w]`."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = pictures[0].width, pictures[0].height, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.thread_count = _TIME, 1 / _TIME, 1
    threads = f"threads=1:lookahead-threads=1:log-level=-1{x264_assembly()}"
    encoder.options = {"preset": "medium", "crf": str(quality), "x264-params": threads}
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    to_yuv, to_rgb = VideoReformatter(), VideoReformatter()
    packets = []
    for number, picture in enumerate(pictures):
        rgb = av.VideoFrame.from_ndarray(picture.to_ndarray(format="rgb24"), format="rgb24")
        frame = to_yuv.reformat(rgb, format="yuv420p", interpolation=_EXACT)
        frame.pts, frame.time_base = number, _TIME
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    shown = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.decode(None)
    exact = [to_rgb.reformat(frame, format="rgb24", interpolation=_EXACT).to_ndarray() for frame in shown]
    made = torch.stack([torch.from_numpy(pixels) for pixels in exact])
    return made.permute(0, 3, 1, 2).contiguous()
