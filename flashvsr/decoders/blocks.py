"""Layers of the tiny decoders and of the tiny encoder: memory, and growth in time and space."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.amp import is_autocast_available

from flashvsr.kernels.convolutions import conv_relu

FRAMES_PER_LATENT = 4
LEAD_FRAMES = 3  # the first latent of a clip stands for one picture: its first three decoded ones are dropped


class MemBlock(nn.Module):
    """Residual block of three 3x3 convolutions that also sees its own input one frame earlier.

    ``ReLU(conv(ReLU(conv(ReLU(conv([x, past]))))) + x)``.

    Args:
        channels: Channels in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the block to consecutive frames.

        Args:
            x: `[B*T, C, h, w]` in channels_last, T consecutive frames of each sample.
            past: `[B, C, h, w]`, the frame before the first; zeros at the start of a stream.

        Returns:
            The output `[B*T, C, h, w]`, and the last frame of ``x``, which is the next ``past``.
        """
        last = x
        if x.shape[0] != past.shape[0]:
            # Whole [h, w, C] planes move: cat along time on a channels-first view would lose channels_last.
            frames = x.permute(0, 2, 3, 1).unflatten(0, (past.shape[0], -1))  # [B, T, h, w, C]
            last = frames[:, -1].clone().permute(0, 3, 1, 2)
            shifted = torch.cat([past.permute(0, 2, 3, 1).unsqueeze(1), frames[:, :-1]], dim=1)
            past = shifted.flatten(0, 1).permute(0, 3, 1, 2)  # [B*T, C, h, w]
        # conv([x, past]) as conv(x) + conv(past): the stacked input, the largest tensor of the block, is never built.
        entry, middle, leave = (cast(nn.Conv2d, self.conv[index]) for index in (0, 2, 4))
        from_x, from_past = entry.weight.chunk(2, dim=1)
        out = conv_relu(x, from_x, entry.bias, plus=functional.conv2d(past, from_past, padding=1))
        out = conv_relu(out, middle.weight, middle.bias)
        return conv_relu(out, leave.weight, leave.bias, plus=x), last


def initialise(network: nn.Module) -> None:
    """Draw the weights of all convolutions so that features keep their size from layer to layer; no biases.

    PyTorch's own draw makes them smaller at every layer: a hundred times, in all. The residual branch of a memory block
    begins small.

    Reference:
        He et al., Delving deep into rectifiers, https://arxiv.org/abs/1502.01852.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, MemBlock):
            with torch.no_grad():
                cast(nn.Conv2d, module.conv[4]).weight.mul_(0.1)


def needs_grad(module: nn.Module, *inputs: Tensor | None) -> bool:
    """Whether a call of ``module`` with these inputs records a gradient, so that all activations are kept anyway."""
    if not torch.is_grad_enabled():
        return False
    return any(x.requires_grad for x in (*module.parameters(), *inputs) if x is not None)


def check_latents(latents: Tensor, channels: int) -> None:
    """Refuse latents that a decoder cannot take.

    Raises:
        ValueError: If ``latents`` is not `[B, channels, T, h, w]` with T >= 1.
    """
    if latents.ndim != 5 or latents.shape[1] != channels or latents.shape[2] < 1:
        raise ValueError(f"latents must be [B, {channels}, T >= 1, H/8, W/8], got {tuple(latents.shape)}")


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
