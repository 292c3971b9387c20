"""Growth in time and space between the stages of the tiny decoders, as one transposed convolution per frame."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.amp import is_autocast_available


class TimeGrow(nn.Module):
    """Weights of the 1x1 convolution that turns one frame into ``times`` frames of the same width.

    Output channels are ordered (time, channel). It has no ``forward``: see :func:`upsampling_kernels`.

    Args:
        channels: Channels in, and of each frame out.
        times: Frames out per frame in.
    """

    def __init__(self, channels: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(channels, times * channels, 1, bias=False)


def upsampling_kernels(grow: TimeGrow, conv: nn.Conv2d) -> list[Tensor]:
    """Nearest x2 upsampling, growth in time and a 3x3 convolution, as one transposed convolution per frame.

    The three have no non-linearity between them. Repeating every pixel 2x2 and then convolving with k taps is a
    transposed convolution of stride 2 with k + 1 taps, whose kernel sums the taps that land on the same source
    pixel: 4 multiplications per output pixel and channel pair instead of 9, and the upsampled picture never exists.

    Args:
        grow: The 1x1 growth; it commutes with the repetition.
        conv: The bias-free 3x3 convolution with zero padding 1, from C to O channels.

    Returns:
        Kernels `[C, O, 4, 4]` for :func:`~flashvsr.kernels.convolutions.enlarge`, one per frame out, in order of
        time. They are computed in fp32 or better and rounded once, to the dtype of the weights.
    """
    dtype = torch.promote_types(conv.weight.dtype, torch.float32)
    with _without_autocast(conv.weight.device.type):  # it would round the taps before they are combined
        flipped = conv.weight.to(dtype).flip(2, 3)
        wide = functional.pad(flipped, (0, 1)) + functional.pad(flipped, (1, 0))  # [O, C, 3, 4]
        taps = functional.pad(wide, (0, 0, 0, 1)) + functional.pad(wide, (0, 0, 1, 0))  # [O, C, 4, 4]
        frames = grow.conv.weight.to(dtype).flatten(1).chunk(grow.times)  # [C, C] each, out by in
        return [torch.einsum("omij,mc->coij", taps, frame).to(conv.weight.dtype) for frame in frames]


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Autocast switched off, on devices that have it; "meta" has none."""
    return torch.autocast(device_type, enabled=False) if is_autocast_available(device_type) else nullcontext()
