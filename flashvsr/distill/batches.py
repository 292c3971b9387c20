"""What stages 1 to 3 take of a batch: latents of the truth, tokens of the LR frames; prompt, history, validation."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.training.batches import AHEAD, Batch, batch_psnr, target_frames
from flashvsr.training.seeded import seeded_normal


def encode(vae: nn.Module, frames: Tensor) -> Tensor:
    """Latents `[B, C, n, H/8, W/8]` of `4n - 3` frames, without gradient, in the dtype of the frames."""
    with torch.no_grad():
        latents, _ = vae.encode(frames)  # type: ignore[operator]  # any VAE; a module promises none
    return latents.to(frames.dtype)


def target_latents(vae: nn.Module, batch: Batch) -> Tensor:
    """Latents of the frames that have targets: those that a data module kept with them, or computed now."""
    return batch["latents"] if "latents" in batch else encode(vae, target_frames(batch)[1])


def project(projection: nn.Module, lr: Tensor) -> Tensor:
    """Tokens `[B, N, dim]` of all T LR frames: `(T - 1) / 4` steps; an image is a clip that stands still, one step."""
    if lr.shape[2] == 1:
        lr = lr.expand(-1, -1, AHEAD + 1, -1, -1)
    tokens, _ = projection(lr, streaming=False)
    return tokens


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


def sample_clips(stage: Any, batch: Batch, steps: int) -> dict[str, Tensor]:
    """Sample the clips of a validation batch and log ``val/psnr`` (RGB, of [0, 1]).

    Args:
        stage: Has ``dit``, ``projection``, ``decoder``, ``vae`` (one of the two may be None), ``schedule``, ``prompt``.
        batch: As in training; its images are passed over.
        steps: Euler steps.

    Returns:
        ``{"lr", "sr", "hr"}``, each `[B, 3, T - 4, H, W]` in [-1, 1].
    """
    lr, hr = target_frames(batch)
    cells = (stage.dit.channels, (lr.shape[2] + 3) // 4, lr.shape[3] // 8, lr.shape[4] // 8)
    noise = seeded_normal(batch["seed"], "validation", size=cells).to(lr.dtype)
    tokens = project(stage.projection, batch["lr"])
    latents = stage.schedule.sample(stage.dit, noise, tokens, steps=steps, prompt=stage.prompt).to(lr.dtype)
    decoder = stage.vae if stage.decoder is None else stage.decoder
    frames, _ = decoder(latents, lr, None)
    sr = frames.float().clamp(-1, 1)
    stage.log("val/psnr", batch_psnr(sr, hr).mean(), batch_size=lr.shape[0], sync_dist=True)
    return {"lr": lr, "sr": sr, "hr": hr}
