"""What the stages take of a batch: frames aligned with latents, tokens of the LR frames, noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

AHEAD = 4
"""Frames that the LR projection looks ahead: that many at the end of a clip have no target."""


def target_frames(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """LR and truth of the frames that a clip of T = 8n + 1 frames has latents for, the first T - 4; an image's one.

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


def encode(vae: nn.Module, frames: Tensor) -> Tensor:
    """Latents `[B, C, n, H/8, W/8]` of `4n - 3` frames, without gradient, in the dtype of the frames."""
    with torch.no_grad():
        latents, _ = vae.encode(frames)  # type: ignore[operator]  # any VAE; a module promises none
    return latents.to(frames.dtype)


def truth_latents(vae: nn.Module, batch: dict[str, Any]) -> Tensor:
    """Latents of the frames that have targets: those that a data module kept with them, or computed now."""
    return batch["latents"] if "latents" in batch else encode(vae, target_frames(batch)[1])


def project(projection: nn.Module, lr: Tensor) -> Tensor:
    """Tokens `[B, N, dim]` of all T LR frames: `(T - 1) / 4` steps; an image is a clip that stands still, one step."""
    if lr.shape[2] == 1:
        lr = lr.expand(-1, -1, AHEAD + 1, -1, -1)
    tokens, _ = projection(lr, streaming=False)
    return tokens


def trained(networks: dict[str, nn.Module]) -> list[nn.Parameter]:
    """Parameters that ask for a gradient: all, or those of an adapter.

    Raises:
        ValueError: If there is none.
    """
    parameters = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"nothing to train: no parameter of {', '.join(networks)} has requires_grad")
    return parameters
