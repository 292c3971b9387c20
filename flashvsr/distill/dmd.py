"""Distribution matching distillation: two scores give the direction in which the generator's samples should move."""

from __future__ import annotations

import torch
from torch import Tensor

from flashvsr.distill.flow_matching import Predict, Schedule


def dmd_loss(
    x: Tensor, real_score: Predict, fake_score: Predict, noise: Tensor, sigma: Tensor, schedule: Schedule
) -> Tensor:
    """A loss whose gradient moves generated latents from where the fake score expects them to where the real one does.

    Both scores see the same noisy latents at the same timestep. With `real` and `fake` their predictions of the clean
    latents, the gradient for sample b is ``g = (fake - real) / mean|x - real|``, divided by the number of elements of
    a sample: what autograd makes of half the mean squared error to the constant ``x - g``. The mean is that of the
    sample alone. In the notation of DMD2, ``p_real = x - real`` and ``p_fake = x - fake``, it is
    ``(p_real - p_fake) / mean|p_real|``.

    Args:
        x: Generated latents `[B, C, T, h, w]`; the gradient goes to them and to nothing else.
        real_score: Velocity of the frozen teacher.
        fake_score: Velocity of the network that follows the generator.
        noise: Shaped as `x`, fp32.
        sigma: Noise level of each sample, `[B]`, in [0, 1]; the range is checked on a CPU only, where it costs no
            waiting.
        schedule: A :class:`~flashvsr.models.FlowSchedule`, or anything with ``add_noise``, ``timestep`` and ``x0``.

    Returns:
        `[B]` in at least fp32. Its value is half the mean of g squared: it does not fall as training goes well.

    Raises:
        TypeError: If `sigma` is not a tensor.
        ValueError: If `noise`, `sigma` or what a score returns is of another shape, or a level outside [0, 1].

    Reference:
        DMD, https://arxiv.org/abs/2311.18828, equations 7 and 8; DMD2, https://arxiv.org/abs/2405.14867; FlashVSR,
        https://arxiv.org/abs/2510.12747, stage 3.
    """
    _check(x, noise, sigma)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    with torch.no_grad():
        noisy = schedule.add_noise(wide, noise, sigma)
        timestep = schedule.timestep(sigma)
        velocities = [score(noisy.to(x.dtype), timestep) for score in (real_score, fake_score)]
        for name, velocity in zip(("real_score", "fake_score"), velocities, strict=True):
            if velocity.shape != x.shape:
                raise ValueError(f"{name} returned {list(velocity.shape)} for latents {list(x.shape)}")
        real, fake = (schedule.x0(noisy, velocity, sigma) for velocity in velocities)
        scale = (wide - real).abs().flatten(1).mean(1).clamp_min(1e-8)
        target = wide - (fake - real) / scale.view(-1, *[1] * (x.ndim - 1))
    return 0.5 * (wide - target).square().flatten(1).mean(1)


def _check(x: Tensor, noise: Tensor, sigma: Tensor) -> None:
    if not isinstance(sigma, Tensor):
        raise TypeError(f"sigma is a tensor [{len(x)}], one level per sample; got {sigma!r}")
    if noise.shape != x.shape or tuple(sigma.shape) != (len(x),):
        raise ValueError(
            f"noise is {list(x.shape)} like x and sigma [{len(x)}], one level per sample; "
            f"got {list(noise.shape)} and {list(sigma.shape)}"
        )
    if sigma.device.type == "cpu" and not ((sigma >= 0) & (sigma <= 1)).all():
        raise ValueError(f"sigma is a noise level in [0, 1], got {sigma.tolist()}")
