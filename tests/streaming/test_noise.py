"""Noise is a function of seed and chunk alone, and no two of them share it."""

from __future__ import annotations

import torch

from flashvsr.streaming import Geometry, chunk_noise


def test_no_two_chunks_or_seeds_share_their_noise():
    geometry = Geometry(first_latents=2)
    draws = [chunk_noise(geometry, seed, chunk, (16, 16)) for seed in range(6) for chunk in range(6)]
    assert len({draw.flatten()[0].item() for draw in draws}) == 36
    stacked = torch.stack([draw.flatten() for draw in draws])
    correlation = torch.corrcoef(stacked) - torch.eye(36)
    assert correlation.abs().max() < 0.5  # 128 values each: 0.09 expected, 0.5 is over five sigma
    assert abs(stacked.mean()) < 0.06
    assert abs(stacked.std() - 1) < 0.06


def test_noise_depends_on_nothing_but_seed_and_chunk():
    torch.manual_seed(1)
    first = chunk_noise(Geometry(), 7, 3, (128, 256))
    torch.manual_seed(2)
    assert first.shape == (1, 16, 2, 16, 32)
    assert torch.equal(chunk_noise(Geometry(), 7, 3, (128, 256)), first)
