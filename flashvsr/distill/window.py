"""Which frames belong to which latents, and a few consecutive latents decoded with gradient."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

CELL = 8
"""Pixels per latent cell, in height and width."""


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
