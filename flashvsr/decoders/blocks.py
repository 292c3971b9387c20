"""The network shared by the tiny decoders.

A latent frame passes four stages, at 1/8, 1/4, 1/2 and full resolution, and becomes four pictures. Only the memory
blocks look back in time, and only by one frame, so the state of a stream is one feature map per memory block.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from flashvsr.decoders.growth import TimeGrow, upsampling_kernels
from flashvsr.decoders.tiny_state import MEMORY_BLOCKS, TinyDecoderState
from flashvsr.kernels.convolutions import band_rows, conv_relu, enlarge, interleave, picture_in_bands

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


class TinyNetwork(nn.ModuleDict):
    """The layers of the released tiny decoder; the keys are their indices there, those without weights are absent.

    Args:
        in_channels: Channels of the input: latent, and LR pixels where there is a condition.
        channels: Widths of the four stages.
        apart: The last channels of the input, whose weights are a tensor of their own (key ``"latents"``) instead of
            columns of the first layer's, and start at zero.
    """

    def __init__(self, in_channels: int, channels: tuple[int, int, int, int], apart: int = 0) -> None:
        first, second, third, fourth = channels
        super().__init__(
            {
                "1": nn.Conv2d(in_channels - apart, first, 3, padding=1),
                "3": nn.Conv2d(first, first, 3, padding=1, bias=False),
                "5": MemBlock(first),
                "6": MemBlock(first),
                "7": MemBlock(first),
                "9": TimeGrow(first, times=1),
                "10": nn.Conv2d(first, second, 3, padding=1, bias=False),
                "11": MemBlock(second),
                "12": MemBlock(second),
                "13": MemBlock(second),
                "15": TimeGrow(second, times=2),
                "16": nn.Conv2d(second, third, 3, padding=1, bias=False),
                "17": MemBlock(third),
                "18": MemBlock(third),
                "19": MemBlock(third),
                "21": TimeGrow(third, times=2),
                "22": nn.Conv2d(third, fourth, 3, padding=1, bias=False),
                "24": nn.Conv2d(fourth, fourth, 3, padding=1, bias=False),
                "26": nn.Conv2d(fourth, 3, 3, padding=1),
            }
        )
        initialise(self)
        with torch.no_grad():
            for key in ("9", "15", "21"):  # two layers in a row without a ReLU between them
                self[key].conv.weight.mul_(0.5**0.5)
            for key in ("10", "16", "22"):
                self[key].weight.mul_(0.5**0.5)
            self["26"].weight.mul_(0.3)
            self["26"].bias.fill_(0.5)  # grey, in the network's own range of [0, 1]
        if apart:
            self["latents"] = nn.Conv2d(apart, first, 3, padding=1, bias=False)
            nn.init.zeros_(self["latents"].weight)

    def forward(
        self,
        passes: Iterable[Tensor],
        batch: int,
        latents: int,
        state: TinyDecoderState | None,
        *,
        parallel: bool = False,
        settling: int = 0,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, TinyDecoderState]:
        """Decode one call of a stream.

        Args:
            passes: Inputs `[B*T, C, h, w]` in channels_last, consecutive in time; T may differ between them. They are
                drawn one at a time, so a generator keeps only one in memory.
            batch: B.
            latents: Latent frames of all passes together.
            state: The state of the stream, which is consumed, or None at its start.
            parallel: True: all frames of a pass go through every layer together, for training. False: one by one
                from half resolution on, which bounds the memory. They agree to rounding.
            settling: Latent frames in front that only fill the memory; their pictures are left out.
            dtype: Of the frames where they are computed one by one; None for that of the passes.

        Returns:
            Frames `[B, 3, T', 8h, 8w]`, raw (released weights: [0, 1]), four per latent frame but one for the first
            of a stream; and the new state.

        Raises:
            RuntimeError: If the state was consumed before.
        """
        past: list[Tensor | None] = [None] * len(MEMORY_BLOCKS) if state is None else list(state.take().past)
        drop = FRAMES_PER_LATENT * settling + (LEAD_FRAMES if state is None else 0)
        (to_quarter,), to_half, to_full = (
            upsampling_kernels(self[grow], self[conv]) for grow, conv in (("9", "10"), ("15", "16"), ("21", "22"))
        )
        pieces: list[Tensor] = []
        frames, done = torch.empty(0), -drop
        for x in passes:
            x = self._eighth(x, past, batch)  # [B*T, C, h, w]
            x = self._remember(("11", "12", "13"), enlarge(x, to_quarter), past, batch)  # [B*T, C, 2h, 2w]
            if parallel:
                pieces.append(self._finish_together(x, to_half, to_full, past, batch, 0 if pieces else drop))
                continue
            if done == -drop:
                rows, columns = (4 * size for size in x.shape[2:])
                frames = x.new_empty(batch, 3, FRAMES_PER_LATENT * latents - drop, rows, columns, dtype=dtype)
            done = self._finish_one_by_one(x, to_half, to_full, past, frames, done)
        if parallel:
            frames = torch.cat(pieces, dim=2).contiguous()
        return frames, TinyDecoderState([tensor for tensor in past if tensor is not None])

    def _finish_one_by_one(
        self,
        x: Tensor,
        to_half: list[Tensor],
        to_full: list[Tensor],
        past: list[Tensor | None],
        frames: Tensor,
        done: int,
    ) -> int:
        """From `[B*T, C, 2h, 2w]` to ``frames[:, :, done:]``, `[B, 3, T', 8h, 8w]`; returns how many are done then.

        A negative ``done`` counts pictures to leave out.
        """
        batch = frames.shape[0]
        steps = x.shape[0] // batch
        hidden, last = self["24"], self["26"]
        for step, half_kernel in product(range(steps), to_half):
            # one frame per sample, in strides that convolutions recognise as channels_last
            half = self._remember(("17", "18", "19"), enlarge(x[step::steps], half_kernel), past, batch)
            for full_kernel in to_full:
                if done >= 0:
                    rows = band_rows(half, hidden.in_channels)
                    picture_in_bands(half, full_kernel, hidden, last, rows, frames[:, :, done])
                done += 1
        return done

    def _finish_together(
        self, x: Tensor, to_half: list[Tensor], to_full: list[Tensor], past: list[Tensor | None], batch: int, drop: int
    ) -> Tensor:
        """The same for all frames at once, without the first ``drop``: `[B, 3, T', 8h, 8w]`."""
        half = interleave([enlarge(x, kernel) for kernel in to_half])
        half = self._remember(("17", "18", "19"), half, past, batch)
        full = interleave([torch.relu_(enlarge(half, kernel)) for kernel in to_full])
        kept = full.permute(0, 2, 3, 1).unflatten(0, (batch, -1))[:, drop:]  # [B, T', 8h, 8w, C]
        kept = kept.flatten(0, 1).permute(0, 3, 1, 2)
        frames = self["26"](conv_relu(kept, self["24"].weight, self["24"].bias))
        return frames.unflatten(0, (batch, -1)).transpose(1, 2)

    def __getitem__(self, key: str) -> Any:
        """The layer of a released index, of whichever type it is."""
        return super().__getitem__(key)

    def zero_output(self) -> None:
        """Set the last layer to zero, so that every frame is exactly zero until training moves it.

        What it sees is made small, so that the first steps of an optimizer move the frames little.
        """
        with torch.no_grad():
            self["24"].weight.mul_(0.1)
        nn.init.zeros_(self["26"].weight)
        nn.init.zeros_(self["26"].bias)

    def check_state(self, state: TinyDecoderState | None, latents: Tensor) -> None:
        """Refuse a state whose batch, width or size is not that of ``latents`` `[B, C, T, h, w]`.

        Raises:
            ValueError: If they differ.
            RuntimeError: If the state was consumed before.
        """
        if state is None:
            return
        state.check_fresh()
        batch, _, _, height, width = latents.shape
        expected = (batch, self["1"].out_channels, height, width)
        if tuple(state.past[0].shape) != expected:
            raise ValueError(
                f"the decoder state holds features of shape {tuple(state.past[0].shape)}, these latents need "
                f"{expected}; start a new stream with state=None when the batch or the frame size changes"
            )

    def _eighth(self, x: Tensor, past: list[Tensor | None], batch: int) -> Tensor:
        x = 3 * (x / 3).tanh_()  # soft clamp
        entry = self["1"].weight
        if "latents" in self:
            entry = torch.cat((entry, self["latents"].weight), 1)
        x = conv_relu(x, entry, self["1"].bias)
        x = conv_relu(x, self["3"].weight, self["3"].bias)
        return self._remember(("5", "6", "7"), x, past, batch)

    def _remember(self, keys: tuple[str, ...], x: Tensor, past: list[Tensor | None], batch: int) -> Tensor:
        for key in keys:
            slot = MEMORY_BLOCKS.index(key)
            before = past[slot]
            x, past[slot] = self[key](x, torch.zeros_like(x[:batch]) if before is None else before)
        return x


def check_latents(latents: Tensor, channels: int) -> None:
    """Refuse latents that a tiny decoder cannot take.

    Raises:
        ValueError: If ``latents`` is not `[B, channels, T, h, w]` with T >= 1.
    """
    if latents.ndim != 5 or latents.shape[1] != channels or latents.shape[2] < 1:
        raise ValueError(f"latents must be [B, {channels}, T >= 1, H/8, W/8], got {tuple(latents.shape)}")
