"""The network of the tiny decoders, its state, and the decoder without a condition.

A latent frame passes four stages, at 1/8, 1/4, 1/2 and full resolution, and becomes four pictures. Only the memory
blocks look back in time, and only by one frame, so the state of a stream is one feature map per memory block. What the
LR frames are worth can be measured against the decoder that does not see them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from flashvsr.decoders.blocks import (
    FRAMES_PER_LATENT,
    LEAD_FRAMES,
    MemBlock,
    TimeGrow,
    check_latents,
    initialise,
    needs_grad,
    upsampling_kernels,
)
from flashvsr.kernels.convolutions import band_rows, conv_relu, enlarge, interleave, picture_in_bands
from flashvsr.state import ConsumableState

MEMORY_BLOCKS = ("5", "6", "7", "11", "12", "13", "17", "18", "19")
"""Indices of the layers that look back in time."""


@dataclass
class TinyDecoderState(ConsumableState):
    """What a tiny decoder remembers between two calls of one stream.

    Attributes:
        past: The last input of each of the nine memory blocks, `[B, C, h, w]`, in network order.
    """

    past: list[Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """CPU copies of the feature maps under the keys ``past.0`` to ``past.8``.

        Raises:
            RuntimeError: If the state was consumed before.
        """
        self.check_fresh()
        return {f"past.{index}": tensor.detach().to("cpu", copy=True) for index, tensor in enumerate(self.past)}

    @classmethod
    def from_state_dict(cls, saved: dict[str, Tensor]) -> TinyDecoderState:
        """The state that :meth:`state_dict` saved; it continues on the device and in the dtype of the tensors.

        Raises:
            ValueError: If the keys are not those that :meth:`state_dict` writes.
        """
        expected = [f"past.{index}" for index in range(len(MEMORY_BLOCKS))]
        if sorted(saved) != expected:
            raise ValueError(
                f"a tiny decoder state has the tensors past.0 to past.{len(MEMORY_BLOCKS) - 1}, got {sorted(saved)}"
            )
        return cls([saved[key].clone(memory_format=torch.channels_last) for key in expected])


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


class TinyDecoder(nn.Module):
    """The network of :class:`TinyConditionalDecoder`, which takes only the latents.

    Args:
        latent_channels: Channels of the latents.
        channels: Widths of the stages at 1/8, 1/4, 1/2 and full resolution.
        latents_per_pass: Latent frames that share one pass through the two low-resolution stages. More is faster where
            frames are small, costs memory, and agrees with 1 to rounding. Where gradients are wanted, all frames of a
            call go through every layer together, whatever this says.

    Raises:
        ValueError: If ``latents_per_pass`` is below 1.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, ablation of the tiny conditional decoder; the network is that of
        https://github.com/madebyollin/taehv.
    """

    state_type = TinyDecoderState

    def __init__(
        self,
        latent_channels: int = 16,
        channels: tuple[int, int, int, int] = (512, 256, 128, 128),
        latents_per_pass: int = 1,
    ) -> None:
        super().__init__()
        if latents_per_pass < 1:
            raise ValueError(f"latents_per_pass must be at least 1, got {latents_per_pass}")
        self.latent_channels = latent_channels
        self.latents_per_pass = latents_per_pass
        self.decoder = TinyNetwork(latent_channels, channels)

    def forward(
        self, latents: Tensor, lr: Tensor | None = None, state: TinyDecoderState | None = None
    ) -> tuple[Tensor, TinyDecoderState]:
        """Decode the next latents of a stream.

        Args:
            latents: `[B, 16, n, H/8, W/8]`, normalised as the diffusion transformer returns them.
            lr: Ignored; every decoder takes the same arguments.
            state: What the previous call returned, which is consumed, or None at the start of a stream.

        Returns:
            Frames `[B, 3, T, H, W]`, about [-1, 1] and not clamped, T = 4n - 3 in the first call and 4n later; and the
            new state.

        Raises:
            ValueError: If the latents have the wrong shape or do not fit the state.
            RuntimeError: If the state was consumed before.
        """
        check_latents(latents, self.latent_channels)
        self.decoder.check_state(state, latents)
        parallel = needs_grad(self, latents)
        passes = self._passes(latents, latents.shape[2] if parallel else self.latents_per_pass)
        frames, state = self.decoder(passes, *latents.shape[:3:2], state, parallel=parallel)
        return frames.mul_(2).sub_(1), state

    def _passes(self, latents: Tensor, together: int) -> Iterator[Tensor]:
        for piece in latents.split(together, dim=2):
            yield rearrange(piece, "b c n h w -> (b n) h w c").contiguous().permute(0, 3, 1, 2)
