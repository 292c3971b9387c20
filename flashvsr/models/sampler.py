"""From noise to latents: the noise levels of flow matching, and one step or many along its velocity."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

DEFAULT_SHIFT = 5.0
"""How far Wan2.1 and FlashVSR move noise levels towards noise."""

SOLVERS = ("euler", "heun")
"""How a sampler steps from level to level."""


class FlowSchedule:
    """Noise levels of a straight flow from latents (sigma 0) to noise (sigma 1).

    Args:
        shift: How far levels are moved towards noise; 1 leaves them where they are.
        solver: Of :meth:`sample`, see :func:`sample_latents`.

    Raises:
        ValueError: If `shift` is not positive, or `solver` unknown.

    Reference:
        Flow matching, https://arxiv.org/abs/2210.02747; the shift, https://arxiv.org/abs/2403.03206, section 5.3.2.
    """

    def __init__(self, shift: float = DEFAULT_SHIFT, solver: str = "euler") -> None:
        if shift <= 0:
            raise ValueError(f"shift is positive, got {shift}")
        self.shift, self.solver = shift, known_solver(solver)

    def sigma(self, u: Tensor) -> Tensor:
        """Shifted noise level of `u`, uniform in [0, 1]; 0 and 1 stay."""
        return self.shift * u / (1 + (self.shift - 1) * u)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The timestep that the transformer takes: ``1000 * sigma``."""
        return 1000 * sigma

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mix latents `[B, ...]` and noise at the level `[B]` of each sample, in at least fp32."""
        sigma = _per_sample(sigma, x0)
        return (1 - sigma) * x0 + sigma * noise

    def x0(self, noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
        """Latents that `velocity` points at from `noisy` `[B, ...]` at the level `[B]`."""
        return noisy - _per_sample(sigma, noisy) * velocity

    def sigmas(self, steps: int) -> Tensor:
        """Levels of a sampler with `steps` steps: `[steps + 1]` fp32, from 1 down to 0.

        Raises:
            ValueError: If `steps` is below 1.
        """
        if steps < 1:
            raise ValueError(f"a sampler takes at least 1 step, got {steps}")
        return self.sigma(torch.linspace(1, 0, steps + 1, dtype=torch.float32))

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
        """:func:`sample_latents` with this schedule and its solver."""
        return sample_latents(
            dit, noise, tokens, steps=steps, schedule=self, prompt=prompt, history=history, solver=self.solver
        )


def sample_latents(
    dit: Callable[..., tuple[Tensor, object]],
    noise: Tensor,
    tokens: Tensor | None,
    *,
    steps: int,
    schedule: FlowSchedule,
    prompt: Tensor | None = None,
    history: int | None = None,
    solver: str = "euler",
) -> Tensor:
    """Follow the velocity from noise to latents, whole clip at once.

    Args:
        dit: A :class:`~flashvsr.models.VideoDiT`, with full or sparse attention.
        noise: `[B, C, T, H/8, W/8]`, in the dtype that the transformer takes.
        tokens: `[B, N, dim]` of the LR projection.
        steps: Steps, at least 1; one gives ``noise - velocity``.
        schedule: Where the steps are.
        prompt: Text embedding, for a model with a prompt.
        history: Another history than the sparse model's own.
        solver: ``"euler"``, one velocity per step; its samples vary less than they should, even where the velocity is
            exact: with 20 steps by 6 %, and by 12 % where levels are shifted by 5. Or ``"heun"``, of second order: the
            mean of the velocities at both ends of a step, but for the last, which ends where there is no noise;
            ``2 * steps - 1`` velocities.

    Returns:
        Latents, shaped as `noise` and in its dtype; between steps they are kept in fp32.

    Raises:
        ValueError: If `steps` is below 1, or `solver` unknown.

    Reference:
        Heun's method as in EDM, https://arxiv.org/abs/2206.00364, algorithm 1.
    """
    heun = known_solver(solver) == "heun"
    levels = schedule.sigmas(steps).tolist()  # of the host: no step waits for the device
    x = noise.float() if noise.dtype != torch.float64 else noise

    def velocity(x: Tensor, sigma: float) -> Tensor:
        timestep = schedule.timestep(torch.full((noise.shape[0],), sigma, dtype=torch.float32, device=noise.device))
        found, _ = dit(x.to(noise.dtype), timestep, lr_tokens=tokens, prompt=prompt, streaming=False, history=history)
        return found

    for sigma, after in pairwise(levels):
        slope = velocity(x, sigma)
        if heun and after > 0:
            slope = 0.5 * (slope + velocity(x + (after - sigma) * slope, after))
        x = x + (after - sigma) * slope
    return x.to(noise.dtype)


def known_solver(solver: str) -> str:
    """The solver.

    Raises:
        ValueError: If there is none of that name.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver is one of {', '.join(SOLVERS)}; got {solver!r}")
    return solver


def _per_sample(sigma: Tensor, like: Tensor) -> Tensor:
    """`[B]` to `[B, 1, ...]`, in fp32 or in fp64 where `like` is."""
    return sigma.to(torch.promote_types(like.dtype, torch.float32)).view(-1, *[1] * (like.ndim - 1))
