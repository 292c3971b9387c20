"""Random changes of size, with the interpolations of OpenCV (no low-pass filter before reducing, except "area")."""

from __future__ import annotations

from math import ceil

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashvsr.data.degrade.random_walk import RandomWalk, pick
from flashvsr.data.degrade.settings import RESIZE_METHODS, Resize

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
        self._factor = RandomWalk(rng, settings.scale, settings.step, start={"up": up, "down": down, "keep": 1.0}[mode])

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
    if method == "area" and (size[0] > frames.shape[-2] or size[1] > frames.shape[-1]):
        method = "bilinear"
    across = _resample(frames, size[0], method).transpose(-1, -2)
    return _resample(across, size[1], method).transpose(-1, -2).contiguous()


def _resample(frames: Tensor, rows: int, method: str) -> Tensor:
    """Weighted sums of source rows: `[..., H, W]` to `[..., rows, W]`.

    Row by row in a fixed order, so the result is the same for any number of threads, which PyTorch's is not.
    """
    height = frames.shape[-2]
    first, weights = _taps(height, rows, method)
    index = (first + torch.arange(weights.shape[1])[None]).clamp_(0, height - 1).to(frames.device)
    scales = weights.float().to(frames.device)[:, :, None]  # [rows, taps, 1]
    total = frames.index_select(-2, index[:, 0]).mul_(scales[:, 0])
    for tap in range(1, weights.shape[1]):
        total.addcmul_(frames.index_select(-2, index[:, tap]), scales[:, tap])
    return total


def _taps(height: int, rows: int, method: str) -> tuple[Tensor, Tensor]:
    """First source row `[rows, 1]` (maybe outside) and weights `[rows, taps]`, float64, of every new row."""
    start = torch.arange(rows, dtype=torch.float64)[:, None] * (height / rows)
    if method == "area":
        end = start + height / rows
        source = start.floor() + torch.arange(ceil(height / rows) + 1)
        covered = torch.minimum(end, source + 1) - torch.maximum(start, source)
        return start.floor().long(), covered.clamp_(min=0) * (rows / height)
    centre = start + (height / rows - 1) / 2
    part = centre - centre.floor()
    if method == "bilinear":
        return centre.floor().long(), torch.cat((1 - part, part), 1)
    near = torch.cat((part, 1 - part), 1)
    inner = (1.25 * near - 2.25) * near**2 + 1
    outer = ((-0.75 * (near + 1) + 3.75) * (near + 1) - 6) * (near + 1) + 3
    return centre.floor().long() - 1, torch.cat((outer[:, :1], inner, outer[:, 1:]), 1)


def bicubic_quarter(frame: Tensor) -> Tensor:
    """A frame reduced with PIL's bicubic filter, which does not alias: uint8 `[3, H, W]` to uint8 `[3, h, w]`."""
    height, width = low_size(*frame.shape[-2:])
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    reduced = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(reduced).permute(2, 0, 1).contiguous()
