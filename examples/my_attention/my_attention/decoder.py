"""A decoder that adds a picture of details to the LR frames, and fades from the details of one latent to the next."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from flashvsr.state import ConsumableState


@dataclass
class FadingState(ConsumableState):
    """What the decoder remembers of a stream: the last picture of details, `[B, 3, 1, H, W]`."""

    last: Tensor

    def state_dict(self) -> dict[str, Tensor]:
        """A copy on the CPU, for a stream that is saved."""
        self.check_fresh()
        return {"last": self.last.detach().to("cpu", copy=True)}

    @classmethod
    def from_state_dict(cls, saved: dict[str, Tensor]) -> Self:
        """The state that was saved."""
        return cls(saved["last"].clone())


class FadingDecoder(nn.Module):
    """Two convolutions make details of each latent; its four frames fade to them from those of the latent before.

    flashvsr calls a decoder as `forward` is declared here, and reads `latent_channels` and `state_type`. One that is
    `residual` gets LR frames in fp32.

    Args:
        latent_channels: Channels of the latents.
        width: Channels between the convolutions.
    """

    state_type = FadingState
    residual = True

    def __init__(self, latent_channels: int = 16, width: int = 32) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.details = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 3 * 8 * 8, 3, padding=1),
            nn.PixelShuffle(8),
        )

    def forward(self, latents: Tensor, lr: Tensor, state: FadingState | None = None) -> tuple[Tensor, FadingState]:
        """Decode the next latents of a stream.

        Args:
            latents: `[B, C, t, H/8, W/8]`. The first latent of a stream is one frame, every other is four.
            lr: `[B, 3, T, H, W]` in [-1, 1], enlarged: a frame for every frame that comes out.
            state: Of the call before, consumed; None at the start of a stream.

        Returns:
            Frames `[B, 3, T, H, W]`, and the new state.
        """
        details = self.details(latents.transpose(1, 2).flatten(0, 1)).unflatten(0, (latents.shape[0], -1))
        details = details.transpose(1, 2)  # [B, 3, t, H, W]
        last = details[:, :, :1] if state is None else state.take().last
        before = torch.cat((last, details[:, :, :-1]), 2)
        share = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=details.dtype, device=details.device)[:, None, None]
        faded = torch.lerp(before.unsqueeze(3), details.unsqueeze(3), share).flatten(2, 3)  # [B, 3, 4t, H, W]
        return lr + faded[:, :, -lr.shape[2] :], FadingState(details[:, :, -1:])
