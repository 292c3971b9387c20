"""What every stage takes of a batch: clips and images, the frames that have targets; and the figures it logs.

A batch is ``{"hr", "lr": [B, 3, T, H, W] in [-1, 1], "seed": [B] int64}``, and optionally ``"image"``, another such
dict with T = 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Any]

AHEAD = 4
"""Frames that the LR projection looks ahead: that many at the end of a clip have no target."""


def split_kinds(batch: Batch) -> list[tuple[str, Batch]]:
    """The clips of a batch under ``"video"``, and its images under ``"image"`` where there are any."""
    image = batch.get("image")
    return [("video", batch)] if image is None else [("video", batch), ("image", image)]


def target_frames(batch: Batch) -> tuple[Tensor, Tensor]:
    """LR and truth of the frames that a clip of T = 4n + 1 frames has latents for, the first T - 4; an image's one.

    Raises:
        ValueError: If the clip is too short or `lr` and `hr` differ in shape.
    """
    lr, hr = batch["lr"], batch["hr"]
    frames = lr.shape[2]
    if lr.shape != hr.shape:
        raise ValueError(f"lr is upsampled to the size of hr, got {list(lr.shape)} and {list(hr.shape)}")
    if frames == 1:
        return lr, hr
    if frames < AHEAD + 1 or frames % 4 != 1:
        raise ValueError(f"a clip holds 4n + 1 frames, at least {AHEAD + 1}, and an image 1; got {frames}")
    return lr[:, :, :-AHEAD], hr[:, :, :-AHEAD]


def deviation_and_kurtosis(latents: Tensor) -> tuple[Tensor, Tensor]:
    """How far latents `[B, C, T, h, w]` are spread, and in what shape: 0-d tensors, means over channels.

    Returns:
        Standard deviation, and kurtosis: 3 for a normal distribution, more for one of many zeros and few large values.
    """
    around = latents.float() - latents.float().mean((0, 2, 3, 4), keepdim=True)
    variance = around.square().mean((0, 2, 3, 4))
    kurtosis = around.pow(4).mean((0, 2, 3, 4)) / variance.square().clamp_min(1e-12)
    return variance.sqrt().mean(), kurtosis.mean()


def batch_psnr(sr: Tensor, hr: Tensor) -> Tensor:
    """PSNR in dB of each sample, of RGB in [0, 1]; at most 106.

    Args:
        sr: `[B, 3, T, H, W]`, about [-1, 1]; clamped to it.
        hr: Likewise, the truth.

    Returns:
        `[B]`, fp32.
    """
    error = (sr.float().clamp(-1, 1) - hr.float()).square().flatten(1).mean(1).clamp_min(1e-10)
    return 10 * torch.log10(4 / error)
