"""The tiny conditional (TC) decoder: latents and the LR frames become pictures."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor, nn

from flashvsr.decoders.blocks import FRAMES_PER_LATENT, LEAD_FRAMES, check_latents, needs_grad
from flashvsr.decoders.tiny import TinyDecoderState, TinyNetwork

_CELL = 8  # pixels per latent cell, in height and width


class TinyConditionalDecoder(nn.Module):
    """A small causal decoder that sees the upsampled LR frames beside the latents.

    Frame by frame equals all at once, bit for bit with ``latents_per_pass=1``: nothing looks ahead. Memory grows with
    one frame at full resolution and not with the length of a call, apart from the returned frames themselves.

    Args:
        latent_channels: Channels of the latents.
        channels: Widths of the stages at 1/8, 1/4, 1/2 and full resolution; the default is the released network.
        residual: False: the frames are ``2 * network - 1``, as released. True: they are ``lr + network``; the last
            layer and the weights of the latents, which are a tensor of their own, start at zero, so that an untrained
            decoder returns the LR frames exactly, and one trained without latents is not disturbed by the first ones.
        latents_per_pass: Latent frames that share one pass through the two low-resolution stages. More is faster where
            frames are small, costs memory, and agrees with 1 to rounding. Where gradients are wanted, all frames of a
            call go through every layer together, whatever this says.
        settling: Latent frames for which a stream stands still at its first frame before it begins, so that the memory
            does not start empty: without them the first frames can be twice as wrong as later ones.

    Raises:
        ValueError: If ``latents_per_pass`` is below 1 or ``settling`` negative.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, tiny conditional decoder; the network is that of
        https://github.com/madebyollin/taehv with the LR frames as additional input.
    """

    state_type = TinyDecoderState

    def __init__(
        self,
        latent_channels: int = 16,
        channels: tuple[int, int, int, int] = (512, 256, 128, 128),
        residual: bool = False,
        latents_per_pass: int = 1,
        settling: int = 0,
    ) -> None:
        super().__init__()
        if latents_per_pass < 1:
            raise ValueError(f"latents_per_pass must be at least 1, got {latents_per_pass}")
        if settling < 0:
            raise ValueError(f"settling counts latent frames, at least 0; got {settling}")
        self.settling = settling
        self.latent_channels = latent_channels
        self.residual = residual
        self.latents_per_pass = latents_per_pass
        lr_channels = 3 * FRAMES_PER_LATENT * _CELL * _CELL
        apart = latent_channels if residual else 0
        self.decoder = TinyNetwork(lr_channels + latent_channels, channels, apart)
        if residual:
            self.decoder.zero_output()

    def forward(
        self, latents: Tensor, lr: Tensor, state: TinyDecoderState | None = None
    ) -> tuple[Tensor, TinyDecoderState]:
        """Decode the next latents of a stream.

        Args:
            latents: `[B, 16, n, H/8, W/8]`, normalised as the diffusion transformer returns them.
            lr: `[B, 3, T, H, W]` in [-1, 1], the LR frames upsampled to the output size, in the dtype of the latents;
                a residual decoder also takes a wider one, and returns frames in it. T = 4n - 3 in the first call of a
                stream (its first latent stands for one frame, number 0), 4n later.
            state: What the previous call returned, which is consumed, or None at the start of a stream.

        Returns:
            Frames `[B, 3, T, H, W]`, about [-1, 1] and not clamped; and the new state.

        Raises:
            ValueError: If a shape or dtype does not fit the other, or the state.
            RuntimeError: If the state was consumed before.
        """
        self._check(latents, lr, state)
        parallel = needs_grad(self, latents, lr)
        settling = self.settling if state is None else 0
        seen = lr
        if settling:
            latents = torch.cat((latents[:, :, :1].expand(-1, -1, settling, -1, -1), latents), 2)
            seen = torch.cat((lr[:, :, :1].expand(-1, -1, FRAMES_PER_LATENT * settling, -1, -1), lr), 2)
        together = latents.shape[2] if parallel else self.latents_per_pass
        passes = self._passes(latents, seen, together, lead=LEAD_FRAMES if state is None else 0)
        options = {"parallel": parallel, "settling": settling, "dtype": lr.dtype}
        frames, state = self.decoder(passes, *latents.shape[:3:2], state, **options)
        if not self.residual:
            return frames.mul_(2).sub_(1), state
        return frames.add_(lr) if frames.dtype == lr.dtype else frames + lr, state

    def _passes(self, latents: Tensor, lr: Tensor, together: int, lead: int) -> Iterator[Tensor]:
        """Network inputs `[B*T, 768 + 16, H/8, W/8]`, channels_last; ``lead`` copies of frame 0 go in front."""
        for start in range(0, latents.shape[2], together):
            piece = latents[:, :, start : start + together]
            begin = FRAMES_PER_LATENT * start - lead
            pixels = lr[:, :, max(begin, 0) : begin + FRAMES_PER_LATENT * piece.shape[2]]
            yield _network_input(piece, pixels.to(latents.dtype), repeats=max(-begin, 0))

    def _check(self, latents: Tensor, lr: Tensor, state: TinyDecoderState | None) -> None:
        check_latents(latents, self.latent_channels)
        batch, _, steps, height, width = latents.shape
        frames = FRAMES_PER_LATENT * steps - (LEAD_FRAMES if state is None else 0)
        expected = (batch, 3, frames, _CELL * height, _CELL * width)
        if tuple(lr.shape) != expected:
            call = (
                "the first call of a stream takes 4n - 3 LR frames"
                if state is None
                else "later calls take 4n LR frames"
            )
            raise ValueError(
                f"{steps} latents of {height}x{width} need LR frames of shape {expected}, got {tuple(lr.shape)} "
                f"({call} for n latents, already at the output size)"
            )
        taken = torch.promote_types(lr.dtype, latents.dtype) if self.residual else latents.dtype
        if lr.dtype != taken:
            raise ValueError(f"latents are {latents.dtype} and LR frames {lr.dtype}: convert one to the other's dtype")
        self.decoder.check_state(state, latents)


def _network_input(latents: Tensor, pixels: Tensor, repeats: int) -> Tensor:
    """LR cells and latents side by side as channels; frame 0 is repeated in front."""
    if repeats:
        pixels = torch.cat([pixels[:, :, :1].expand(-1, -1, repeats, -1, -1), pixels], dim=2)
    cells = rearrange(pixels, "b c (n t) (h p) (w q) -> (b n) h w (c t p q)", t=FRAMES_PER_LATENT, p=_CELL, q=_CELL)
    x = torch.cat([cells, rearrange(latents, "b c n h w -> (b n) h w c")], dim=-1)
    return x.permute(0, 3, 1, 2)
