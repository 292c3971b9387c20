"""A small video VAE with the geometry of Wan's, to train a family of small models on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as distributed
from einops import rearrange
from torch import Tensor, nn

from flashvsr.decoders.blocks import FRAMES_PER_LATENT, LEAD_FRAMES, MemBlock, check_latents, initialise, needs_grad
from flashvsr.decoders.tiny import TinyDecoder, TinyDecoderState
from flashvsr.state import ConsumableState

_MOMENTUM = 0.01  # of the running statistics, once that many updates have been averaged evenly
_LOG_VARIANCE = (-30.0, 10.0)  # bounds
_FIRST_LOG_VARIANCE = -6.0  # of an untrained encoder: noise of the size of the signal would have to be unlearned first


@dataclass
class TinyEncoderState(ConsumableState):
    """What the encoder of :class:`TinyVAE` remembers between two calls of one stream.

    Attributes:
        past: The last input of each memory block, `[B, C, h, w]`, in network order.
    """

    past: list[Tensor]


class TinyEncoder(nn.Module):
    """Four pictures become one latent frame: 1/2, 1/4 and 1/8 resolution, and half the frames at each of the last two.

    Args:
        out_channels: Channels out.
        channels: Widths at 1/2, 1/4 and 1/8 resolution.
        in_channels: Of each picture.
    """

    def __init__(self, out_channels: int, channels: tuple[int, int, int], in_channels: int = 3) -> None:
        super().__init__()
        first, second, third = channels
        self.entry = nn.Conv2d(in_channels * 4, first, 3, padding=1)
        self.to_quarter = nn.Conv2d(2 * first, second, 3, stride=2, padding=1)
        self.quarter = nn.ModuleList([MemBlock(second), MemBlock(second)])
        self.to_eighth = nn.Conv2d(2 * second, third, 3, stride=2, padding=1)
        self.eighth = nn.ModuleList([MemBlock(third), MemBlock(third)])
        self.head = nn.Conv2d(third, out_channels, 3, padding=1)
        initialise(self)

    @torch.no_grad()
    def begin_with(self, log_variance: float) -> None:
        """Let the second half of the channels, log-variances of the first, begin near a value."""
        half = self.head.out_channels // 2
        self.head.weight.mul_(0.5**0.5)  # a ReLU after the head is missing
        self.head.weight[half:].mul_(0.1)
        self.head.bias[half:] = log_variance  # type: ignore[index]  # it has one

    def forward(self, frames: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Encode consecutive frames.

        Args:
            frames: `[B, 4n, 3, H, W]`, with ``in_channels`` in place of 3.
            past: Of the call before; empty at the start of a stream.

        Returns:
            `[B*n, out_channels, H/8, W/8]`, from a last layer in fp32 whatever autocast says; and the new past.
        """
        batch = frames.shape[0]
        last: list[Tensor] = []
        x = rearrange(frames, "b t c (h p) (w q) -> (b t) h w (c p q)", p=2, q=2).permute(0, 3, 1, 2)
        x = torch.relu_(self.entry(x))
        for shrink, blocks in ((self.to_quarter, self.quarter), (self.to_eighth, self.eighth)):
            x = rearrange(x, "(n t) c h w -> n h w (t c)", t=2).permute(0, 3, 1, 2)  # pairs of frames
            x = torch.relu_(shrink(x))
            for block in blocks:
                x, kept = block(x, past[len(last)] if past else torch.zeros_like(x[:batch]))
                last.append(kept)
        with torch.autocast(x.device.type, enabled=False):
            return self.head(x.to(self.head.weight.dtype)), last


@torch.no_grad()
def move_statistics(mean: Tensor, mean_square: Tensor, updates: Tensor, latents: Tensor) -> None:
    """Move running moments of latent channels towards those of a batch, over all processes; no sync of the GPU.

    Args:
        mean: `[C, 1, 1, 1]`, changed in place; likewise ``mean_square``.
        mean_square: Of the square.
        updates: How many there were, counted on: the first hundred count alike, later ones 1 % each.
        latents: `[B, C, n, h, w]`, as many values in every process.
    """
    values = latents.float().transpose(0, 1).flatten(1)
    moments = torch.stack([values.mean(1), values.square().mean(1)])
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(moments)
        moments /= distributed.get_world_size()
    updates += 1
    weight = (1 / updates).clamp_min(_MOMENTUM)
    for buffer, moment in zip((mean, mean_square), moments, strict=True):
        buffer.lerp_(moment.to(buffer.dtype).view_as(buffer), weight.to(buffer.dtype))


class TinyVAE(nn.Module):
    """A causal video VAE of about two million parameters, called like :class:`~flashvsr.decoders.WanVAE`.

    Frame 0 of a clip becomes latent 0, every four later frames one more latent, each 8 times smaller in height and
    width. Both directions are causal: any split of a stream gives the same numbers, bit for bit with
    ``latents_per_pass=1`` and without gradients.

    The latents that go in and out are normalised per channel by running statistics of the encoder, buffers which
    :meth:`update_statistics` moves in training; the decoder's own network works on the latents before normalisation.

    Args:
        latent_channels: Channels of the latents.
        encoder_channels: Widths of the encoder at 1/2, 1/4 and 1/8 resolution.
        channels: Widths of the decoder at 1/8, 1/4, 1/2 and full resolution, see :class:`TinyDecoder`.
        latents_per_pass: Latent frames that share one pass, see :class:`TinyDecoder`; holds for both directions.

    Raises:
        ValueError: If ``latents_per_pass`` is below 1.

    Reference:
        Wan, https://arxiv.org/abs/2503.20314, section 4.1, for the geometry; the layers are those of
        https://github.com/madebyollin/taehv.
    """

    state_type = TinyDecoderState
    mean: Tensor
    mean_square: Tensor
    updates: Tensor

    def __init__(
        self,
        latent_channels: int = 16,
        encoder_channels: tuple[int, int, int] = (32, 64, 96),
        channels: tuple[int, int, int, int] = (64, 64, 32, 16),
        latents_per_pass: int = 1,
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.latents_per_pass = latents_per_pass
        self.encoder = TinyEncoder(2 * latent_channels, encoder_channels)
        self.decoder = TinyDecoder(latent_channels, channels, latents_per_pass)
        self.encoder.begin_with(_FIRST_LOG_VARIANCE)
        self.register_buffer("mean", torch.zeros(latent_channels, 1, 1, 1))
        self.register_buffer("mean_square", torch.ones(latent_channels, 1, 1, 1))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def std(self) -> Tensor:
        """Standard deviation of each latent channel before normalisation, `[16, 1, 1, 1]`."""
        return (self.mean_square - self.mean.square()).clamp_min(1e-8).sqrt()

    def encode(self, frames: Tensor, state: TinyEncoderState | None = None) -> tuple[Tensor, TinyEncoderState]:
        """Encode the next frames of a stream to the mean of their latent distribution, normalised.

        Args:
            frames: `[B, 3, T, H, W]` in [-1, 1], H and W multiples of 8; T = 4n + 1 in the first call, 4n later.
            state: What the previous ``encode`` returned, which is consumed, or None at the start of a stream.

        Returns:
            Latents `[B, 16, T', H/8, W/8]`, T' = n + 1 in the first call and n later; and the new state.

        Raises:
            ValueError: If the frame count or size does not fit, or the state is of another size.
            RuntimeError: If the state was consumed before.
        """
        mean, _, state = self._moments(frames, state)
        return ((mean - self.mean) / self.std).contiguous(), state

    def decode(self, latents: Tensor, state: TinyDecoderState | None = None) -> tuple[Tensor, TinyDecoderState]:
        """Decode the next latents of a stream.

        Args:
            latents: `[B, 16, n, H/8, W/8]`, normalised, n >= 1.
            state: What the previous ``decode`` returned, which is consumed, or None at the start of a stream.

        Returns:
            Frames `[B, 3, T, H, W]`, about [-1, 1] and not clamped, T = 4n - 3 in the first call and 4n later; and the
            new state.

        Raises:
            ValueError: If the latents have the wrong shape or do not fit the state.
            RuntimeError: If the state was consumed before.
        """
        check_latents(latents, self.latent_channels)
        return self.decoder((latents * self.std + self.mean).to(latents.dtype), None, state)

    def forward(
        self, latents: Tensor, lr: Tensor | None = None, state: TinyDecoderState | None = None
    ) -> tuple[Tensor, TinyDecoderState]:
        """:meth:`decode` with the arguments of every decoder; ``lr`` is ignored."""
        return self.decode(latents, state)

    def reconstruct(self, frames: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a clip, draw from its latent distribution and decode: what training needs.

        Args:
            frames: `[B, 3, 4n + 1, H, W]` in [-1, 1].
            noise: `[B, 16, n + 1, H/8, W/8]`, standard normal; zero for the mean.

        Returns:
            The decoded frames, and the mean and the log-variance of the latents, before normalisation.

        Raises:
            ValueError: If the frame count or size does not fit.
        """
        mean, log_variance, _ = self._moments(frames, None)
        latents = mean + torch.exp(0.5 * log_variance) * noise
        return self.decoder(latents.to(frames.dtype))[0], mean, log_variance

    @torch.no_grad()
    def update_statistics(self, mean: Tensor) -> None:
        """Move the running statistics towards those of a batch, over all processes; in fp32, without a sync of the GPU.

        The first hundred updates count alike, later ones 1 % each.

        Args:
            mean: `[B, 16, n, h, w]`, the mean that :meth:`reconstruct` returned, as many values in every process.
        """
        move_statistics(self.mean, self.mean_square, self.updates, mean)

    def _moments(self, frames: Tensor, state: TinyEncoderState | None) -> tuple[Tensor, Tensor, TinyEncoderState]:
        """Mean and log-variance before normalisation, `[B, 16, n, h, w]` each."""
        self._check(frames, state)
        past = [] if state is None else state.take().past
        frames = frames.transpose(1, 2)  # [B, T, 3, H, W]
        if state is None:  # frame 0 fills the first latent
            frames = torch.cat([frames[:, :1].expand(-1, LEAD_FRAMES, -1, -1, -1), frames], dim=1)
        together = frames.shape[1] if needs_grad(self.encoder, frames) else FRAMES_PER_LATENT * self.latents_per_pass
        pieces = []
        for piece in frames.split(together, dim=1):
            out, past = self.encoder(piece, past)
            pieces.append(out.unflatten(0, (frames.shape[0], -1)))
        mean, log_variance = torch.cat(pieces, dim=1).transpose(1, 2).chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE), TinyEncoderState(past)

    def _check(self, frames: Tensor, state: TinyEncoderState | None) -> None:
        first = 1 if state is None else 0
        count = frames.shape[2] if frames.ndim == 5 and frames.shape[1] == 3 else 0
        if count < 1 or count % FRAMES_PER_LATENT != first or frames.shape[3] % 8 or frames.shape[4] % 8:
            call = "T = 4n + 1 in the first call" if first else "T = 4n in a later call"
            raise ValueError(
                f"encode takes [B, 3, T, H, W] with H and W multiples of 8 and {call} of a stream, "
                f"got {tuple(frames.shape)}"
            )
        if state is not None:
            state.check_fresh()
            held = tuple(state.past[0].shape)
            expected = (frames.shape[0], held[1], frames.shape[3] // 4, frames.shape[4] // 4)
            if held != expected:
                raise ValueError(
                    f"the encoder state holds features of shape {held}, these frames need {expected}; start a new "
                    "stream with state=None when the batch or the frame size changes"
                )
