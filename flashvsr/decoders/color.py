"""Bring the colours of decoded frames back to those of the LR frames they were made from."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

_LEVELS = 5
_EPSILON = 1e-5


def adain_color(frames: Tensor, lr: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Give each channel of each frame the mean and the standard deviation of the LR frame.

    Args:
        frames: `[B, 3, T, H, W]`, about [-1, 1], any float dtype; the statistics are fp32. Not changed, unless it is
            `out`.
        lr: LR frames upsampled to the same shape.
        out: Where to write, of the shape and dtype of `frames`, which it may be; None for a new tensor.

    Returns:
        Frames of the same shape and dtype, clamped to [-1, 1]. A constant channel becomes the mean of the LR.

    Raises:
        ValueError: If the shapes differ.

    Reference:
        Huang and Belongie, https://arxiv.org/abs/1703.06868, equation 8, with statistics per frame.
    """
    return _frame_by_frame(_match_statistics, frames, lr, out)


def wavelet_color(frames: Tensor, lr: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Replace the low frequencies of each frame by those of the LR frame.

    Five blurs of growing radius (1, 2, 4, 8 and 16 pixels, borders replicated) give the low band. Blurring is
    linear, so one low band is enough: that of the difference between the two frames.

    Args:
        frames: `[B, 3, T, H, W]`, about [-1, 1], any float dtype; the maths is fp32. Not changed, unless it is
            `out`.
        lr: LR frames upsampled to the same shape.
        out: Where to write, of the shape and dtype of `frames`, which it may be; None for a new tensor.

    Returns:
        Frames of the same shape and dtype, clamped to [-1, 1].

    Raises:
        ValueError: If the shapes differ.

    Reference:
        StableSR, https://arxiv.org/abs/2305.07015, wavelet colour correction.
    """
    return _frame_by_frame(_match_low_band, frames, lr, out)


def _frame_by_frame(
    match: Callable[[Tensor, Tensor], Tensor], frames: Tensor, lr: Tensor, out: Tensor | None
) -> Tensor:
    """Apply ``match`` to pairs of fp32 frames `[B, 3, H, W]`, so that no fp32 copy of a whole chunk exists."""
    if frames.ndim != 5 or frames.shape != lr.shape:
        raise ValueError(
            f"frames and LR frames must both be [B, 3, T, H, W], got {tuple(frames.shape)} and {tuple(lr.shape)}: "
            "resize the LR to the output size first"
        )
    out = torch.empty_like(frames) if out is None else out
    for index in range(frames.shape[2]):
        out[:, :, index] = match(frames[:, :, index].float(), lr[:, :, index].float()).clamp_(-1, 1)
    return out


def _match_statistics(frame: Tensor, lr: Tensor) -> Tensor:
    variance, mean = _statistics(frame)
    lr_variance, lr_mean = _statistics(lr)
    gain = ((lr_variance + _EPSILON) / (variance + _EPSILON)).sqrt()
    return (frame - mean).mul_(gain).add_(lr_mean)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of each channel `[B, C, 1, 1]`, by hand on a CPU, where ``var_mean`` takes 16 times as long."""
    if x.device.type != "cpu":
        return torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean).square().mean((2, 3), keepdim=True), mean


def _match_low_band(frame: Tensor, lr: Tensor) -> Tensor:
    low = lr - frame
    for level in range(_LEVELS):
        low = _blur(_blur(low, 2**level, dim=2), 2**level, dim=3)
    return low.add_(frame)


def _blur(x: Tensor, radius: int, dim: int) -> Tensor:
    """Weights 1/4, 1/2, 1/4 at a distance of ``radius`` along one axis of `[B, 3, H, W]`, borders replicated."""
    size = x.shape[dim]
    x = functional.pad(x, (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0), mode="replicate")
    sides = x.narrow(dim, 0, size) + x.narrow(dim, 2 * radius, size)
    return sides.mul_(0.5).add_(x.narrow(dim, radius, size)).mul_(0.5)


COLORS = {"adain": adain_color, "wavelet": wavelet_color, "none": None}


class ColorMatch(nn.Module):
    """Bring the colours of frames back to those of the LR frames.

    Args:
        method: ``"adain"``, ``"wavelet"`` or ``"none"``.

    Raises:
        ValueError: If `method` is unknown.
    """

    def __init__(self, method: str = "adain") -> None:
        super().__init__()
        if method not in COLORS:
            raise ValueError(f"color is one of {', '.join(COLORS)}; got {method!r}")
        self.method = method

    def forward(self, frames: Tensor, lr: Tensor, content: tuple[int, int] | None = None) -> Tensor:
        """Match.

        Args:
            frames: `[B, 3, T, H, W]`; may be changed in place.
            lr: LR frames of the same shape.
            content: Height and width of what is not padding, from the top left; None for all.

        Returns:
            `[B, 3, T, H, W]`, the padding as it was.
        """
        match = COLORS[self.method]
        if match is None:
            return frames
        height, width = content or frames.shape[3:]
        original, shown = frames[..., :height, :width], lr[..., :height, :width]
        if not frames.requires_grad:
            match(original, shown, out=original)
            return frames
        matched = match(original, shown)
        if matched.shape == frames.shape:
            return matched
        frames = frames.clone()  # the gradient of the match needs the original
        frames[..., :height, :width] = matched
        return frames
