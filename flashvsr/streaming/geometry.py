"""How a system cuts time and space."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """How a system cuts time and space.

    Args:
        first_frames: LR frames the first chunk takes.
        next_frames: LR frames each later chunk takes, and output frames it yields.
        first_latents: Latent frames of the first chunk.
        next_latents: Latent frames of each later chunk.
        multiple: Height and width must be multiples of this many target pixels.
        lookahead: LR frames the model sees beyond the last output frame of a chunk.
        latent_channels: Channels of the noise.
        latent_stride: Target pixels per latent cell, in each direction.
    """

    first_frames: int = 25
    next_frames: int = 8
    first_latents: int = 6
    next_latents: int = 2
    multiple: int = 128
    lookahead: int = 4
    latent_channels: int = 16
    latent_stride: int = 8

    @property
    def first_output(self) -> int:
        """Output frames of the first chunk: 21."""
        return self.first_frames - self.lookahead

    @property
    def next_output(self) -> int:
        """Output frames of each later chunk: 8."""
        return self.next_frames

    def lr_frames(self, chunk: int) -> int:
        """LR frames that chunk number ``chunk`` takes."""
        return self.next_frames if chunk else self.first_frames

    def output_frames(self, chunk: int) -> int:
        """Frames that chunk number ``chunk`` yields."""
        return self.next_output if chunk else self.first_output

    def latents(self, chunk: int) -> range:
        """Latent frames of chunk number ``chunk``, counted from the start of the stream."""
        if chunk == 0:
            return range(self.first_latents)
        start = self.first_latents + (chunk - 1) * self.next_latents
        return range(start, start + self.next_latents)
