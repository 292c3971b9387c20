"""What an objective asks of a noise schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor


class Schedule(Protocol):
    """Noise levels and what they mean; :class:`~flashvsr.models.FlowSchedule` is one.

    A recipe takes any class with these methods, their arguments named and annotated as here.
    """

    def sigma(self, u: Tensor) -> Tensor:
        """Noise level of `u`, uniform in [0, 1]."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the transformer is told of a level."""

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mix latents `[B, ...]` and noise at the level `[B]` of each sample."""

    def x0(self, noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
        """Latents that `velocity` points at from `noisy` `[B, ...]` at the level `[B]`."""

    def sample(
        self,
        dit: Callable[..., tuple[Tensor, object]],
        noise: Tensor,
        tokens: Tensor | None,
        *,
        steps: int,
        prompt: Tensor | None = None,
        history: int | None = None,
    ) -> Tensor:
        """Latents from noise `[B, ...]` in so many steps, with the tokens of the LR frames; for validation."""
