"""Noise that depends on a seed and the number of the chunk, and on nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from flashvsr.streaming.geometry import Geometry


def chunk_noise(geometry: Geometry, seed: int, chunk: int, size: tuple[int, int]) -> Tensor:
    """Normal noise of one chunk, a function of the seed and the chunk's number only.

    The generator of every chunk is seeded with ``splitmix64(splitmix64(seed) + chunk)``, so neighbouring seeds and
    chunks share nothing, no chunk depends on another having been drawn, and the noise is the same whatever the
    device and the piece sizes. (PyTorch's CPU generator uses the low 32 bits: among a million chunks some hundred
    pairs repeat, at unrelated times.)

    Args:
        geometry: Latent channels, stride and latents per chunk.
        seed: Any integer; taken modulo 2**64.
        chunk: Number of the chunk, from 0.
        size: Padded target (height, width) in pixels.

    Returns:
        `[1, C, t, H/8, W/8]`, float32, on the CPU.
    """
    generator = torch.Generator().manual_seed(_splitmix64(_splitmix64(seed) + chunk) & 0x7FFFFFFFFFFFFFFF)
    height, width = (pixels // geometry.latent_stride for pixels in size)
    return torch.randn(
        1, geometry.latent_channels, len(geometry.latents(chunk)), height, width, generator=generator, device="cpu"
    )


def _splitmix64(value: int) -> int:
    """One step of the SplitMix64 generator: a bijection that scatters neighbouring integers over 64 bits.

    Reference:
        Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    mask = 0xFFFFFFFFFFFFFFFF
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)
