"""Flow matching: the transformer learns the velocity from latents to noise, at the noise levels of a schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn, stack

Predict = Callable[[Tensor, Tensor], Tensor]
"""Velocity `[B, ...]` of noisy latents `[B, ...]` at timesteps `[B]`: a network with everything else bound."""


class Schedule(Protocol):
    """Noise levels and what they mean; :class:`~flashvsr.models.FlowSchedule` is one.

    A recipe takes any class with these methods, their arguments named and annotated as here.
    """

    def sigma(self, u: Tensor) -> Tensor:
        """Noise level of `u`, uniform in [0, 1]."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep that the transformer takes for a noise level."""

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


def flow_matching_loss(predict: Predict, x0: Tensor, noise: Tensor, sigma: Tensor, schedule: Schedule) -> Tensor:
    """Squared error of the predicted velocity ``noise - x0``, per sample.

    Args:
        predict: The network.
        x0: Clean latents `[B, C, T, h, w]`.
        noise: Shaped as `x0`, fp32.
        sigma: Noise level of each sample, `[B]`, 0 to 1.
        schedule: A :class:`~flashvsr.models.FlowSchedule`, or anything with ``add_noise`` and ``timestep``.

    Returns:
        `[B]`, the mean over each sample in at least fp32.

    Reference:
        https://arxiv.org/abs/2210.02747, equation 23; FlashVSR, https://arxiv.org/abs/2510.12747, stages 1 and 2.
    """
    velocity = predict(schedule.add_noise(x0, noise, sigma).to(x0.dtype), schedule.timestep(sigma))
    return velocity_error(velocity, x0, noise)


def packed_flow_matching_loss(
    predict: Callable[[list[Tensor], Tensor], Sequence[Tensor]],
    x0: Sequence[Tensor],
    noise: Sequence[Tensor],
    sigma: Tensor,
    schedule: Schedule,
) -> Tensor:
    """Do what :func:`flow_matching_loss` does, for samples of different sizes.

    Args:
        predict: Velocities of a list of noisy samples at timesteps `[samples]`.
        x0: Clean latents `[C, T, h, w]` of each sample.
        noise: Likewise, fp32.
        sigma: Noise level of each sample, `[samples]`.
        schedule: As for :func:`flow_matching_loss`.

    Returns:
        `[samples]`; every sample counts alike, however large it is.
    """
    noisy = [
        schedule.add_noise(x[None], eps[None], level[None])[0].to(x.dtype)
        for x, eps, level in zip(x0, noise, sigma.unbind(), strict=True)
    ]
    velocities = predict(noisy, schedule.timestep(sigma))
    return stack([velocity_error(*(y[None] for y in sample))[0] for sample in zip(velocities, x0, noise, strict=True)])


def velocity_error(velocity: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """Mean squared error to ``noise - x0`` of each sample `[B, ...]`, `[B]` in at least fp32."""
    return (noise - x0 - velocity).square().flatten(1).mean(1)


def bind_conditions(dit: nn.Module, tokens: Tensor, prompt: Tensor | None, *, history: int | None = None) -> Predict:
    """A transformer on whole clips as a function of noisy latents and timesteps: its conditions are bound.

    Args:
        dit: A :class:`~flashvsr.models.VideoDiT`.
        tokens: `[B, N, dim]` of the LR frames.
        prompt: `[1, L, text_dim]`; None for a model without.
        history: Of a sparse transformer, another than its own.
    """

    def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
        velocity, _ = dit(noisy, timestep, lr_tokens=tokens, prompt=prompt, streaming=False, history=history)
        return velocity

    return predict
