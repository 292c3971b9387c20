"""Random numbers that depend on the seed of a sample, and on neither its batch, its process nor its device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from zlib import crc32

import torch
from torch import Tensor


def seeded_uniform(seeds: Tensor, use: str, step: int = 0, *, size: Sequence[int] = ()) -> Tensor:
    """Uniform numbers in (0, 1), a function of (seed, use, step, position) computed where the seeds are.

    A generator of PyTorch would have to be seeded on the host, which waits for the device at every step; hashing a
    counter does not.

    Args:
        seeds: `[B]` int64.
        use: What they are for; different uses of one seed share nothing.
        step: Step of the training.
        size: Shape per sample.

    Returns:
        `[B, *size]` fp32, the same on every device.

    Reference:
        SplitMix64, Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    return _fraction(_words(seeds, use, step, size) >> 32 & 0x7FFFFF, 23)


def seeded_normal(seeds: Tensor, use: str, step: int = 0, *, size: Sequence[int]) -> Tensor:
    """Normal numbers, as :func:`seeded_uniform`; by the Box-Muller transform, so at most 6.7 from 0.

    Args:
        seeds: `[B]` int64.
        use: What they are for.
        step: Step of the training.
        size: Shape per sample.

    Returns:
        `[B, *size]` fp32, the same on every device to rounding.
    """
    words = _words(seeds, use, step, size)
    radius = torch.sqrt(-2 * torch.log(_fraction(words & 0x7FFFFFFF, 31).clamp(max=1.0)))
    return radius * torch.cos(2 * math.pi * _fraction(words >> 33 & 0xFFFFFF, 24))


def shared_random(seed: int, use: str, step: int) -> Random:
    """A generator of the host for choices that all samples and processes share, such as the length of the history."""
    return Random(f"{seed} {use} {step}")


def _fraction(bits: Tensor, count: int) -> Tensor:
    return (bits.float() + 0.5) * 2.0**-count


def _words(seeds: Tensor, use: str, step: int, size: Sequence[int]) -> Tensor:
    """`[B, *size]` int64 of 64 random bits."""
    keys = _mix(_mix(_mix(seeds) + crc32(use.encode())) + step)
    counter = torch.arange(math.prod(size), device=seeds.device)
    return _mix(keys[:, None] + _mix(counter)).view(-1, *size)


def _mix(x: Tensor) -> Tensor:
    """One step of SplitMix64 on int64, whose sums and products wrap around as unsigned ones do."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    return (x >> by) & ((1 << (64 - by)) - 1)  # `>>` would copy the sign


def _signed(value: int) -> int:
    return value - (1 << 64)
