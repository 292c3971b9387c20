"""What the one-step stage computes: a clip from noise in one step, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flashvsr.distill.dmd import dmd_loss
from flashvsr.distill.flow_matching import Predict, Schedule, flow_matching_loss, velocity_error
from flashvsr.training.seeded import seeded_normal, seeded_uniform

CELL = 8
"""Pixels per latent cell, in height and width."""

Reconstruction = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""(sr, hr, first) to a loss `[B]` and its parts, as :class:`ReconstructionLoss`."""


@dataclass(frozen=True)
class OneStepObjective:
    """Distribution matching plus reconstruction, with all networks as arguments.

    Args:
        schedule: A :class:`~flashvsr.models.FlowSchedule`.
        reconstruction: Compares decoded frames with the truth.
        dmd_weight: Of the distribution matching loss; 0 leaves it and its scores out.
        reconstruction_weight: Of `reconstruction`; 0 leaves the decoder out.
        latent_weight: Of the squared error to the latents of the truth; 0 leaves it out.
        adversarial_weight: Of the hinge loss of a discriminator; 0 leaves it out.
        decoded_latents: Consecutive latents that are decoded.
        decode_crop: Side of the decoded square in latent cells; None decodes whole frames.
        sigma_range: Lowest and highest noise level at which scores are asked.

    Raises:
        ValueError: If a number is out of range, or all weights are 0.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, stage 3; DMD2, https://arxiv.org/abs/2405.14867.
    """

    schedule: Schedule
    reconstruction: Reconstruction
    dmd_weight: float = 1.0
    reconstruction_weight: float = 1.0
    latent_weight: float = 0.0
    adversarial_weight: float = 0.0
    decoded_latents: int = 2
    decode_crop: int | None = None
    sigma_range: tuple[float, float] = (0.02, 0.98)

    def __post_init__(self) -> None:
        names = ("dmd_weight", "reconstruction_weight", "latent_weight", "adversarial_weight")
        weights = {name: getattr(self, name) for name in names}
        if min(weights.values()) < 0 or not any(weights.values()):
            said = ", ".join(f"{name}={weight}" for name, weight in weights.items())
            raise ValueError(f"weights are at least 0 and one is positive, or nothing is to be learned: got {said}")
        low, high = self.sigma_range
        if not 0 < low < high < 1:
            raise ValueError(f"sigma_range is two levels with 0 < low < high < 1, got {self.sigma_range}")
        if self.decoded_latents < 1 or (self.decode_crop is not None and self.decode_crop < 1):
            raise ValueError(
                f"decoded_latents and decode_crop count from 1, got {self.decoded_latents} and {self.decode_crop}"
            )

    def generate(self, generator: Predict, noise: Tensor) -> Tensor:
        """All latents of a clip in one step from pure noise `[B, C, T, h, w]`: ``noise - velocity``."""
        sigma = torch.ones(noise.shape[0], dtype=torch.float32, device=noise.device)
        return self.schedule.x0(noise, generator(noise, self.schedule.timestep(sigma)), sigma).to(noise.dtype)

    def noise_level(self, seeds: Tensor, use: str, step: int) -> Tensor:
        """Shifted noise level of each sample, `[B]`, inside `sigma_range`."""
        return self.schedule.sigma(seeded_uniform(seeds, f"{use} sigma", step)).clamp(*self.sigma_range)

    def matching_loss(self, x: Tensor, real: Predict, fake: Predict, seeds: Tensor, step: int) -> Tensor:
        """:func:`dmd_loss` of generated latents, `[B]`; nothing reaches the scores."""
        noise = seeded_normal(seeds, "dmd", step, size=x.shape[1:])
        return dmd_loss(x, real, fake, noise, self.noise_level(seeds, "dmd", step), self.schedule)

    def fake_loss(self, x: Tensor, fake: Predict, seeds: Tensor, step: int) -> Tensor:
        """Flow matching of the fake score on generated latents, `[B]`; nothing reaches the generator."""
        noise = seeded_normal(seeds, "fake", step, size=x.shape[1:])
        return flow_matching_loss(fake, x.detach(), noise, self.noise_level(seeds, "fake", step), self.schedule)

    def latent_loss(self, x: Tensor, truth: Tensor) -> Tensor:
        """Squared error to the latents of the truth, `[B]`."""
        return velocity_error(torch.zeros_like(x), x.float(), truth)

    def decode(
        self, decoder: Callable[..., tuple[Tensor, Any]], x: Tensor, lr: Tensor, random: Random
    ) -> tuple[Tensor, Window]:
        """Frames of a random window of the latents, and which one; earlier latents are decoded without gradient."""
        window = draw_window(random, tuple(x.shape), self.decoded_latents, self.decode_crop)
        return decode_window(decoder, x, lr, window), window

    def reconstruction_loss(self, sr: Tensor, hr: Tensor, window: Window) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare decoded frames with their part of the whole truth: the loss `[B]` and its parts."""
        first = torch.full((sr.shape[0],), window.start == 0, device=sr.device)
        return self.reconstruction(sr, window.cut_frames(hr)[:, :, window.frames], first)


class Window(NamedTuple):
    """A piece of a clip: some consecutive latents, and a rectangle of latent cells."""

    start: int
    length: int
    top: int
    left: int
    rows: int
    columns: int

    @property
    def frames(self) -> slice:
        """Frames of the window's latents: latent 0 stands for frame 0, every later one for four."""
        return slice(_frames(self.start), _frames(self.start + self.length))

    def cut_latents(self, latents: Tensor) -> Tensor:
        """All latents up to the window's end, in its rectangle."""
        rows, columns = slice(self.top, self.top + self.rows), slice(self.left, self.left + self.columns)
        return latents[:, :, : self.start + self.length, rows, columns]

    def cut_frames(self, frames: Tensor) -> Tensor:
        """All frames up to the window's end, in its rectangle."""
        rows = slice(CELL * self.top, CELL * (self.top + self.rows))
        columns = slice(CELL * self.left, CELL * (self.left + self.columns))
        return frames[:, :, : self.frames.stop, rows, columns]


def _frames(latents: int) -> int:
    return max(4 * latents - 3, 0)


def draw_window(random: Random, shape: tuple[int, ...], latents: int = 2, crop: int | None = None) -> Window:
    """Draw a window.

    Args:
        random: Shared by all samples and processes.
        shape: Of the latents, `[B, C, T, h, w]`.
        latents: Consecutive latents; all when there are fewer.
        crop: Side of a random square in latent cells, cut at the frame's size; None for whole frames.

    Returns:
        The window.
    """
    steps, height, width = shape[2:]
    count = min(latents, steps)
    rows, columns = (height, width) if crop is None else (min(crop, height), min(crop, width))
    start = random.randint(0, steps - count)
    return Window(start, count, random.randint(0, height - rows), random.randint(0, width - columns), rows, columns)


def decode_window(decoder: Callable[..., tuple[Tensor, Any]], latents: Tensor, lr: Tensor, window: Window) -> Tensor:
    """Decode a window; the latents before it run through the decoder without gradient, to build its state.

    Args:
        decoder: Any decoder.
        latents: `[B, C, T, h, w]` of the whole clip.
        lr: `[B, 3, 4T - 3 or more, H, W]`, upsampled.
        window: Which part.

    Returns:
        Frames `[B, 3, t, H', W']` of the window.
    """
    latents, lr = window.cut_latents(latents), window.cut_frames(lr)
    state = None
    if window.start:
        with torch.no_grad():
            _, state = decoder(latents[:, :, : window.start], lr[:, :, : window.frames.start], None)
    frames, _ = decoder(latents[:, :, window.start :], lr[:, :, window.frames], state)
    return frames
