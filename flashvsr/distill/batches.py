"""What the stages take of a batch: frames aligned with latents, tokens of the LR frames, prompt and history."""

from __future__ import annotations

from pathlib import Path
from random import Random
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


def read_prompt(prompt: Tensor | str | Path | None) -> Tensor | None:
    """The embedding itself, or what a file of it holds.

    Args:
        prompt: `[1, L, text_dim]`; or a .safetensors file with the tensor "prompt"; or a .pth file of the tensor.

    Returns:
        `[1, L, text_dim]`, or None.

    Raises:
        ValueError: If it has another shape.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(prompt, str | Path):
        path = Path(prompt)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensor = load_file(path)["prompt"]
        else:
            tensor = torch.load(path, map_location="cpu", weights_only=True)
    elif prompt is None:
        return None
    else:
        tensor = prompt
    if tensor.ndim != 3 or tensor.shape[0] != 1:
        raise ValueError(f"a prompt embedding is [1, L, text_dim], got {list(tensor.shape)}")
    return tensor


def draw_history(random: Random, slots: int) -> int:
    """Draw the history of one step: all n slots (50 %), n - 3 (30 %), n - 4 (10 %) or n - 2 (10 %), at least 1.

    Args:
        random: Shared by all samples and processes.
        slots: n, slots of the clip.

    Reference:
        The released code of FlashVSR.
    """
    fewer = random.choices((0, 3, 4, 2), weights=(5, 3, 1, 1))[0]
    return max(slots - fewer, 1)
