"""Random changes of size, with the interpolations of OpenCV (no low-pass filter before reducing, except "area")."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from flashvsr.data.degrade.settings import RESIZE_METHODS, Resize
from flashvsr.data.degrade.walk import Walk, pick

SCALE = 4
_SMALLEST = 8


class ResizeWalk:
    """The sizes of one clip: mode and method held, the factor drifting.

    Attributes:
        active: Whether this clip is resized.
        method: Of all its frames.
    """

    def __init__(self, settings: Resize, rng: np.random.Generator) -> None:
        self.active = bool(rng.random() < settings.probability)
        low, high = settings.scale
        mode = pick(rng, dict(zip(("up", "down", "keep"), settings.modes, strict=True)))
        up, down = float(rng.uniform(1, high)), float(rng.uniform(low, 1))
        self.method = pick(rng, settings.methods)
        self._factor = Walk(rng, settings.scale, settings.step, start={"up": up, "down": down, "keep": 1.0}[mode])

    def next_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the next frame, even and at least 8, when it comes with these."""
        factor = next(self._factor)
        return _even(height * factor), _even(width * factor)


def _even(size: float) -> int:
    return max(_SMALLEST, 2 * round(size / 2))


def low_size(height: int, width: int) -> tuple[int, int]:
    """The size a quarter of this one, rounded to the nearest (halves up), at least 1."""
    return max(1, (height + SCALE // 2) // SCALE), max(1, (width + SCALE // 2) // SCALE)


def resize(frames: Tensor, size: tuple[int, int], method: str) -> Tensor:
    """Resize frames.

    Args:
        frames: `[T, C, H, W]` float32.
        size: Rows and columns of the result.
        method: ``"bilinear"`` and ``"bicubic"`` (a = -0.75) read the nearest 2 x 2 or 4 x 4 pixels however far the
            picture shrinks, so they alias; ``"area"`` averages all that a pixel covers, and is bilinear when a side
            grows.

    Returns:
        `[T, C, *size]`; bicubic may overshoot.

    Raises:
        ValueError: If the method is unknown.
    """
    if method not in RESIZE_METHODS:
        raise ValueError(f"method {method!r}: expected one of {', '.join(RESIZE_METHODS)}")
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    if method == "area" and size[0] <= frames.shape[-2] and size[1] <= frames.shape[-1]:
        return _average(_average(frames, size[0]).transpose(-1, -2), size[1]).transpose(-1, -2).contiguous()
    return F.interpolate(frames, size, mode="bicubic" if method == "bicubic" else "bilinear", align_corners=False)


def _average(frames: Tensor, rows: int) -> Tensor:
    """Mean over the stretch of source rows that each of fewer ``rows`` covers: `[..., H, W]` to `[..., rows, W]`."""
    height = frames.shape[-2]
    start = torch.arange(rows, dtype=torch.float64) * (height / rows)
    end = start + height / rows
    total: Tensor | None = None
    for tap in range(ceil(height / rows) + 1):
        source = start.floor() + tap
        weight = (torch.minimum(end, source + 1) - torch.maximum(start, source)).clamp_(min=0) * (rows / height)
        index = source.long().clamp_(max=height - 1).to(frames.device)
        part = frames.index_select(-2, index) * weight.float().to(frames.device)[:, None]
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def bicubic_quarter(frame: Tensor) -> Tensor:
    """A frame reduced with PIL's bicubic filter, which does not alias: uint8 `[3, H, W]` to uint8 `[3, h, w]`."""
    height, width = low_size(*frame.shape[-2:])
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    reduced = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(reduced).permute(2, 0, 1).contiguous()
