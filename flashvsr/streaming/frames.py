"""From a person's frames to a model's pixels and back: upsampling, padding, ranges."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MIN_SIZE = 16
CORE_SCALE = 4

PASS_VALUES = 2**25
"""Values of target frames that a GPU converts together; a CPU takes frame by frame, which stay in its caches."""


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Move without making the host wait for what the device has still to do, as a copy from pageable memory would."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def check_range(frames: Tensor) -> None:
    """Refuse floating-point frames that are plainly not in [0, 1], on the CPU; elsewhere looking would make it wait.

    Raises:
        ValueError: If they are not, or hold NaN.
    """
    if frames.is_floating_point() and frames.device.type == "cpu" and frames.numel():
        low, high = frames.aminmax()
        if not (low >= -0.5 and high <= 1.5):  # which NaN is not, either
            raise ValueError(
                f"floating-point frames must be in [0, 1], got {low:.4g} to {high:.4g}: rescale, or pass uint8"
            )


def resize_bicubic(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as Pillow does: Keys' cubic with a = -0.5, antialiased, first along the rows and then along the columns.

    Args:
        frames: `[T, C, h, w]`, uint8 or floating point. Computed in float32.
        size: Target (height, width). An axis that already fits is not resampled.

    Returns:
        `[T, C, height, width]` in the same dtype. uint8 is rounded and clamped after each of the two passes and so
        equals Pillow but for isolated samples, a level or two off, where Pillow's fixed-point weights break a tie the
        other way; floating point is neither rounded nor clamped and may overshoot the input's range.
    """
    levels = frames.float()
    for pass_size in ((levels.shape[-2], size[1]), size):
        if levels.shape[-2:] == pass_size:
            continue
        levels = functional.interpolate(levels, size=pass_size, mode="bicubic", antialias=True)
        if frames.dtype == torch.uint8:
            levels = levels.add_(0.5).floor_().clamp_(0, 255)  # Pillow rounds half up
    return levels.to(frames.dtype)


class Canvas:
    """The target of one stream: frames are upsampled onto it and mirrored beyond it, output is cropped back to it.

    Args:
        height: Height of the LR frames, at least 16 pixels.
        width: Width of the LR frames, at least 16 pixels.
        scale: Enlargement, at least 1, or the (height, width) to reach. For one other than 4 the frames are first
            resized by scale / 4, so that what is left to do is always a 4x job.
        multiple: The padded size is a multiple of this many pixels.
        device: Where the model's pixels are.
        dtype: Of the model's pixels.

    Raises:
        ValueError: If a size or the scale is not usable.

    Attributes:
        output_size: ``round(scale * height), round(scale * width)``, or the size to reach.
        padded_size: The output size, rounded up to ``multiple``.
    """

    def __init__(
        self,
        height: int,
        width: int,
        scale: float | tuple[int, int],
        multiple: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if min(height, width) < MIN_SIZE:
            raise ValueError(f"frames must be at least {MIN_SIZE} x {MIN_SIZE} pixels, got {height} x {width}")
        if isinstance(scale, tuple):
            if min(scale) < CORE_SCALE:
                raise ValueError(f"the output must be at least {CORE_SCALE} x {CORE_SCALE} pixels, got {scale}")
            self.output_size = scale
            self._core_size = (round(scale[0] / CORE_SCALE), round(scale[1] / CORE_SCALE))
        elif math.isfinite(scale) and scale >= 1:
            self.output_size = (round(height * scale), round(width * scale))
            self._core_size = (round(height * scale / CORE_SCALE), round(width * scale / CORE_SCALE))
        else:
            raise ValueError(f"scale must be a finite number of at least 1, got {scale}")
        self.padded_size = (_round_up(self.output_size[0], multiple), _round_up(self.output_size[1], multiple))
        self._device, self._dtype = device, dtype
        self._mirror_rows = _mirrored(self.output_size[0], self.padded_size[0]).to(device)
        self._mirror_columns = _mirrored(self.output_size[1], self.padded_size[1]).to(device)

    def to_model(self, frames: Tensor) -> Tensor:
        """Upsample and pad.

        Args:
            frames: `[T, 3, h, w]`, uint8 or floating point in [0, 1], on any device. NaN becomes black, where it is.

        Returns:
            `[1, 3, T, H, W]` of the padded size, in [-1, 1].
        """
        frames = to_device(frames, self._device)
        (height, width), padded = self.output_size, self.padded_size
        lr = torch.empty(1, 3, len(frames), *padded, device=self._device, dtype=self._dtype)
        for piece in self._pieces(len(frames)):  # the float32 intermediates stay small
            core = resize_bicubic(frames[piece], self._core_size)
            target = resize_bicubic(core, self.output_size)
            unit = (
                target.float().div_(255) if target.dtype == torch.uint8 else target.float().nan_to_num_(0).clamp_(0, 1)
            )
            lr[0, :, piece, :height, :width] = unit.mul_(2).sub_(1).transpose(0, 1)
        if padded[1] > width:
            lr[..., :height, width:] = lr[..., :height, self._mirror_columns]
        if padded[0] > height:
            lr[..., height:, :] = lr[..., self._mirror_rows, :]
        return lr

    def to_public(self, result: Tensor, out: Tensor) -> None:
        """Crop, clamp and convert a model's frames.

        Args:
            result: `[1, 3, T, H, W]` of the padded size, in [-1, 1].
            out: `[T', 3, H, W]` of the output size, T' <= T, on any device: written in its dtype, uint8 or floating
                point in [0, 1].
        """
        height, width = self.output_size
        for piece in self._pieces(len(out)):  # a float32 copy of a whole chunk is large at 4K
            unit = result[0, :, piece, :height, :width].float().add(1).div_(2).clamp_(0, 1).transpose(0, 1)
            out[piece].copy_(unit.mul_(255).round_().to(torch.uint8) if out.dtype == torch.uint8 else unit)

    def _pieces(self, frames: int) -> list[slice]:
        """Frames that are converted together."""
        together = 1 if self._device.type == "cpu" else max(1, PASS_VALUES // (3 * math.prod(self.output_size)))
        return [slice(start, min(start + together, frames)) for start in range(0, frames, together)]


def _round_up(pixels: int, multiple: int) -> int:
    return -(-pixels // multiple) * multiple


def _mirrored(pixels: int, padded: int) -> Tensor:
    """Which row (or column) each of the ``padded - pixels`` added ones repeats: n-2, n-3, ... 1, 0, 1, ..."""
    period = max(1, 2 * (pixels - 1))
    index = torch.arange(pixels, padded) % period
    return torch.minimum(index, (period - index) % period)
