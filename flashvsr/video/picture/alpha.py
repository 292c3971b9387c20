"""Transparency: read beside the colours, enlarged, and kept from the colours that nobody sees."""

from __future__ import annotations

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read the transparency of WebM; FFmpeg's own leave it out."""

_SEEN = 0.02  # opacity from which a colour counts


def has_alpha(layout: av.VideoFormat) -> bool:
    """Whether a pixel format can be transparent."""
    return layout.has_palette or any(component.is_alpha for component in layout.components)


def read_alpha(frame: av.VideoFrame) -> Tensor:
    """Opacity of a frame as it is stored, `[h, w]` float32: 0 transparent, 1 opaque; all 1 without an alpha channel."""
    if not has_alpha(frame.format):
        return torch.ones(frame.height, frame.width)
    bits = max(component.bits for component in frame.format.components)
    if len(frame.planes) == 4 and "pf" not in frame.format.name:  # one of its own, and whole numbers
        plane = frame.planes[3]
        kind = np.dtype("u1" if bits == 8 else ">u2" if frame.format.is_big_endian else "<u2")
        rows = np.frombuffer(memoryview(plane), kind).reshape(-1, plane.line_size // kind.itemsize)
        return torch.from_numpy(rows[: frame.height, : frame.width].astype(np.float32)) / ((1 << bits) - 1)
    deep = bits > 8 and not frame.format.has_palette
    array = frame.reformat(format="rgba64le" if deep else "rgba").to_ndarray()[..., 3]
    return torch.from_numpy(array.astype(np.float32)) / (65535 if deep else 255)


def is_transparent(frame: av.VideoFrame) -> bool:
    """Whether a frame has an alpha channel that is not opaque everywhere."""
    return has_alpha(frame.format) and bool(read_alpha(frame).min() < 1)


def enlarge_alpha(alpha: Tensor, height: int, width: int) -> Tensor:
    """Opacity at another size: `[h, w]` to `[height, width]`, bicubic, in [0, 1]."""
    if alpha.shape == (height, width):
        return alpha
    return interpolate(alpha[None, None], (height, width), mode="bicubic", align_corners=False)[0, 0].clamp_(0, 1)


def fill_transparent(pixels: Tensor, alpha: Tensor) -> Tensor:
    """Give pixels that nobody sees the colours of those around, so that they do not bleed into the edges.

    Args:
        pixels: `[3, h, w]`, uint8 or float in [0, 1], not premultiplied.
        alpha: `[h, w]` in [0, 1].

    Returns:
        The same where something is seen; colours fade into each other where nothing is.
    """
    seen = (alpha > _SEEN).float()
    if bool(seen.all()) or not bool(seen.any()):
        return pixels
    filled = _spread(pixels.float()[None] * seen, seen[None, None])[0]
    filled = filled.round().to(torch.uint8) if pixels.dtype == torch.uint8 else filled
    return torch.where(seen.bool(), pixels, filled)


def _spread(colors: Tensor, known: Tensor) -> Tensor:
    """Unknown pixels from the known ones, through ever smaller pictures.

    Args:
        colors: `[1, 3, h, w]`, times ``known``.
        known: `[1, 1, h, w]` in [0, 1].
    """
    height, width = known.shape[2:]
    if height * width == 1 or bool(known.min() == 1):
        return colors
    weight = avg_pool2d(known, 2, ceil_mode=True, count_include_pad=False)
    mean = avg_pool2d(colors, 2, ceil_mode=True, count_include_pad=False) / weight.clamp_min(1e-6)
    certain = (4 * weight).clamp_max_(1)
    coarse = _spread(mean * certain, certain)
    return colors + (1 - known) * interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
