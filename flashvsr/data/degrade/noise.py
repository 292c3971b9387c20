"""Gaussian and Poisson noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from flashvsr.data.degrade.random_walk import RandomWalk
from flashvsr.data.degrade.settings import Noise


class NoiseWalk:
    """The noise of one clip: kind and grayness held, the strength drifting.

    Attributes:
        active: Whether this clip gets noise.
        gaussian: Gaussian noise; else Poisson.
        gray: All channels get the same noise.
        seed: For the generator of the noise itself.
    """

    def __init__(self, settings: Noise, rng: np.random.Generator) -> None:
        self.active = bool(rng.random() < settings.probability)
        self.gaussian = bool(rng.random() < settings.gaussian)
        self.gray = bool(rng.random() < settings.gray)
        self.seed = int(rng.integers(1 << 62))
        if self.gaussian:
            self._strength = RandomWalk(rng, settings.gaussian_sigma, settings.gaussian_sigma_step)
        else:
            self._strength = RandomWalk(rng, settings.poisson_scale, settings.poisson_scale_step)

    def __next__(self) -> float:
        """Strength in the next frame: a standard deviation in steps of 8 bits, or a Poisson scale."""
        return next(self._strength)

    def apply(self, frames: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
        """Add noise to `[T, 3, H, W]` with a strength `[T]` per frame, drawn from a generator on the frames' device."""
        frames_number, _, height, width = frames.shape
        shape = (frames_number, 1 if self.gray else 3, height, width)
        normal = torch.randn(shape, generator=generator, device=frames.device)
        return (add_gaussian if self.gaussian else add_poisson)(frames, normal, strength)


def add_gaussian(frames: Tensor, normal: Tensor, sigma: Tensor) -> Tensor:
    """Add ``sigma * normal``: frames `[T, 3, H, W]` in 0..255, normal `[T, 3 or 1, H, W]`, sigma `[T]` in steps."""
    return frames + normal * sigma[:, None, None, None]


def add_poisson(frames: Tensor, normal: Tensor, scale: Tensor) -> Tensor:
    """Add the noise of counted photons: as many at white as the frame has values, rounded up to a power of 2.

    The counts come from a normal draw by the Cornish-Fisher expansion ``mean + sqrt(mean) z + (z^2 - 1) / 6``, rounded:
    mean, variance and skewness of a Poisson number at a tenth of its cost.

    Args:
        frames: `[T, 3, H, W]` in 0..255.
        normal: Standard normal, `[T, 3, H, W]`; with one channel the noise is gray and follows the luma.
        scale: Factor for the noise, `[T]`.
    """
    levels = frames
    if normal.shape[1] == 1:
        weights = torch.tensor((0.299, 0.587, 0.114), device=frames.device).view(3, 1, 1)
        levels = (frames * weights).sum(1, keepdim=True)
    levels = levels.round().clamp_(0, 255)
    seen = torch.zeros(len(frames), 256, device=frames.device)
    seen.scatter_(1, levels.flatten(1).long(), 1.0)
    white = 2.0 ** torch.ceil(torch.log2(seen.sum(1)))
    mean = levels * (white / 255)[:, None, None, None]
    counts = (mean + mean.sqrt() * normal + (normal.square() - 1) / 6).round_().clamp_(min=0)
    noise = torch.where(mean > 0, counts - mean, 0.0)
    return frames + noise * (scale * 255 / white)[:, None, None, None]
