"""The encoder of a conditional autoencoder: what the truth holds and the LR frames do not becomes latents."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from flashvsr.decoders.blocks import FRAMES_PER_LATENT, LEAD_FRAMES
from flashvsr.decoders.tiny_vae import TinyEncoder, move_statistics

_LOG_VARIANCE = (-12.0, 6.0)  # bounds
_FIRST_LOG_VARIANCE = -4.0  # of an untrained encoder


class ConditionalEncoder(nn.Module):
    """Sees the truth and the upsampled LR frames, and writes what a decoder with the same LR frames lacks.

    Latents are normalised per channel by running statistics, so that zero is their mean: what a decoder sees that
    works without latents.

    Args:
        latent_channels: Channels of the latents.
        channels: Widths at 1/2, 1/4 and 1/8 resolution.

    Reference:
        The layers are those of https://github.com/madebyollin/taehv, the condition is new.
    """

    mean: Tensor
    mean_square: Tensor
    updates: Tensor

    def __init__(self, latent_channels: int = 16, channels: tuple[int, int, int] = (32, 64, 96)) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.encoder = TinyEncoder(2 * latent_channels, channels, in_channels=6)
        self.encoder.begin_with(_FIRST_LOG_VARIANCE)
        self.register_buffer("mean", torch.zeros(latent_channels, 1, 1, 1))
        self.register_buffer("mean_square", torch.ones(latent_channels, 1, 1, 1))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @property
    def std(self) -> Tensor:
        """Standard deviation of each latent channel before normalisation, `[16, 1, 1, 1]`."""
        return (self.mean_square - self.mean.square()).clamp_min(1e-8).sqrt()

    def forward(self, hr: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        """The distribution of the latents of a whole clip, before normalisation.

        Args:
            hr: `[B, 3, 4n + 1, H, W]` in [-1, 1], H and W multiples of 8.
            lr: Of the same shape, the upsampled LR frames.

        Returns:
            Mean and log-variance, `[B, 16, n + 1, H/8, W/8]` each.

        Raises:
            ValueError: If a shape does not fit.
        """
        count = hr.shape[2] if hr.ndim == 5 and hr.shape[1] == 3 else 0
        if count % FRAMES_PER_LATENT != 1 or hr.shape[3] % 8 or hr.shape[4] % 8 or lr.shape != hr.shape:
            raise ValueError(
                "the encoder takes [B, 3, 4n + 1, H, W] with H and W multiples of 8, twice the same, got "
                f"{tuple(hr.shape)} and {tuple(lr.shape)}"
            )
        seen = torch.cat((hr - lr, lr), 1).transpose(1, 2)  # [B, T, 6, H, W]
        seen = torch.cat((seen[:, :1].expand(-1, LEAD_FRAMES, -1, -1, -1), seen), 1)
        out, _ = self.encoder(seen, [])
        mean, log_variance = out.unflatten(0, (hr.shape[0], -1)).transpose(1, 2).chunk(2, 1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)

    def encode(self, hr: Tensor, lr: Tensor) -> Tensor:
        """The mean of the latents, normalised; arguments and errors as for :meth:`forward`."""
        return self.normalise(self(hr, lr)[0])

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents as :meth:`forward` gives them, to zero mean and unit deviation over what the statistics saw."""
        return (latents - self.mean) / self.std

    def update_statistics(self, mean: Tensor) -> None:
        """Move the running statistics towards those of a batch `[B, 16, n, h, w]`, over all processes."""
        move_statistics(self.mean, self.mean_square, self.updates, mean)
