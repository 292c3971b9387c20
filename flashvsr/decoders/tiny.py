"""The tiny decoder without a condition: what the LR frames are worth can be measured against it."""

from __future__ import annotations

from collections.abc import Iterator

from einops import rearrange
from torch import Tensor, nn

from flashvsr.decoders.blocks import TinyNetwork, check_latents, needs_grad
from flashvsr.decoders.tiny_state import TinyDecoderState


class TinyDecoder(nn.Module):
    """The network of :class:`TinyConditionalDecoder`, fed with the latents alone.

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
