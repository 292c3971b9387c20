"""Blur kernels and how they are applied."""

from __future__ import annotations

from math import ceil, pi

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from flashvsr.data.degrade.random_walk import RandomWalk, pick
from flashvsr.data.degrade.settings import KERNEL_KINDS, Blur


def blur_kernel(
    kind: str,
    size: int,
    *,
    sigma: tuple[float, float] = (1.0, 1.0),
    angle: float = 0.0,
    beta: float = 1.0,
    omega: float = pi,
) -> Tensor:
    """One kernel, computed in float64.

    With `q` the quadratic form of the rotated covariance: Gaussian ``exp(-q/2)``, generalised ``exp(-q^beta/2)``,
    plateau ``1/(1 + q^beta)``; sinc is the ideal circular low-pass ``omega * J1(omega * r) / (2 pi r)``.

    Args:
        kind: One of `settings.KERNEL_KINDS`; the "iso" kinds use ``sigma[0]`` for both axes and no angle.
        size: Rows and columns, odd.
        sigma: Standard deviations before rotation, along the rows' direction (x) and across (y), pixels.
        angle: Rotation, radians.
        beta: Shape of the generalised and plateau kinds.
        omega: Cut-off of the sinc, radians per pixel.

    Returns:
        float32 `[size, size]`, rows are y; sums to 1.

    Raises:
        ValueError: If the kind is unknown or the size even.

    Reference:
        Real-ESRGAN, https://arxiv.org/abs/2107.10833, sections 3.2 and 3.4.
    """
    if kind not in KERNEL_KINDS:
        raise ValueError(f"kernel {kind!r}: expected one of {', '.join(KERNEL_KINDS)}")
    if size % 2 == 0:
        raise ValueError(f"size={size}: expected an odd number of rows")
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if kind == "sinc":
        radius = torch.hypot(x, y)
        values = omega * torch.special.bessel_j1(omega * radius) / (2 * pi * radius)
        values[size // 2, size // 2] = omega**2 / (4 * pi)
    else:
        if not kind.endswith("aniso"):
            sigma, angle = (sigma[0], sigma[0]), 0.0
        cos, sin = np.cos(angle), np.sin(angle)
        form = ((cos * x + sin * y) / sigma[0]) ** 2 + ((cos * y - sin * x) / sigma[1]) ** 2
        if kind.startswith("plateau"):
            values = 1 / (1 + form**beta)
        elif kind.startswith("generalized"):
            values = torch.exp(-0.5 * form**beta)
        else:
            values = torch.exp(-0.5 * form)
    return (values / values.sum()).float()


class BlurWalk:
    """The kernels of one clip: kind and size held, the numbers drifting.

    Attributes:
        active: Whether this clip is blurred.
        kind: Of all its kernels.
        size: Of all its kernels.
    """

    def __init__(self, settings: Blur, rng: np.random.Generator) -> None:
        self.active = bool(rng.random() < settings.probability)
        self.kind = pick(rng, settings.kernels)
        self.size = int(rng.choice(settings.sizes))
        omega = settings.omega or ((pi / 3 if self.size < 13 else pi / 5), pi)
        self._sigma_x = RandomWalk(rng, settings.sigma, settings.sigma_step)
        self._sigma_y = RandomWalk(rng, settings.sigma, settings.sigma_step)
        self._angle = RandomWalk(rng, (-pi, pi), settings.angle_step)
        plateau = self.kind.startswith("plateau")
        bounds = settings.beta_plateau if plateau else settings.beta_gaussian
        step = settings.beta_plateau_step if plateau else settings.beta_gaussian_step
        self._beta = RandomWalk(rng, bounds, step, start=_shape(rng, bounds))
        self._omega = RandomWalk(rng, omega, settings.omega_step)

    def __next__(self) -> Tensor:
        """The kernel of the next frame, `[size, size]`."""
        sigma = (next(self._sigma_x), next(self._sigma_y))
        angle, beta, omega = next(self._angle), next(self._beta), next(self._omega)
        return blur_kernel(self.kind, self.size, sigma=sigma, angle=angle, beta=beta, omega=omega)


def _shape(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Half of the draws below 1, half above, as Real-ESRGAN does, as far as the range reaches."""
    low, high = bounds
    if rng.random() < 0.5:
        return float(rng.uniform(low, max(low, min(1.0, high))))
    return float(rng.uniform(min(max(1.0, low), high), high))


def apply_blur(frames: Tensor, kernels: Tensor) -> Tensor:
    """Blur every frame with its own kernel; borders are mirrored (repeated where a frame is too small for that).

    Args:
        frames: `[T, 3, H, W]` float32.
        kernels: `[T, k, k]` float32; the same for all channels.

    Returns:
        `[T, 3, H, W]`.
    """
    radius = kernels.shape[-1] // 2
    height, width = frames.shape[-2:]
    mode = "reflect" if min(height, width) > radius else "replicate"
    padded = F.pad(frames, (radius, radius, radius, radius), mode=mode)
    if len(kernels) == 1 and frames.device.type == "cpu":
        factors = _separate(kernels[0])
        if factors is not None:
            column, row = (factor.expand(3, -1) for factor in factors)
            return F.conv2d(F.conv2d(padded, row[:, None, None], groups=3), column[:, None, :, None], groups=3)
    size = (_quick(height + 2 * radius), _quick(width + 2 * radius))
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernels.flip(-1, -2), s=size)[:, None]
    return torch.fft.irfft2(spectrum, s=size)[..., 2 * radius :, 2 * radius :][..., :height, :width]


def _separate(kernel: Tensor) -> tuple[Tensor, Tensor] | None:
    """Column and row whose outer product the kernel is, to float32 accuracy; None when it is not one."""
    middle = kernel.shape[0] // 2
    column, row = kernel[:, middle] / kernel[middle, middle], kernel[middle]
    error = (torch.outer(column, row) - kernel).abs().sum()
    return (column, row) if float(error) < 1e-5 else None


def _quick(size: int) -> int:
    """The next even size with no prime factor above 5: what FFTs are fast for."""
    size = 2 * ceil(size / 2)
    while True:
        rest = size
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2
