"""What stages 1 to 3 take of a batch: latents of the truth, tokens of the LR frames; prompt, history, validation."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.training.batches import AHEAD, Batch, batch_psnr, deviation_and_kurtosis, target_frames
from flashvsr.training.seeded import seeded_normal


def check_targets(vae: nn.Module | None, encoder: nn.Module | None, decoder: nn.Module | None) -> None:
    """See that one network makes latents of the truth, and one decodes them.

    Raises:
        ValueError: If not.
    """
    if (vae is None) == (encoder is None):
        raise ValueError("latents of the truth come from a vae or from an encoder: give one of them")
    if encoder is not None and decoder is None:
        raise ValueError("an encoder decodes nothing: give the decoder that was trained with it")


def target_latents(stage: Any, batch: Batch) -> Tensor:
    """Latents of the frames that have targets: those that a data module kept with them, or computed now.

    Args:
        stage: Has ``vae``, which sees the truth, or ``encoder``, which sees the LR frames too.
        batch: Clips or images.

    Returns:
        `[B, C, n, H/8, W/8]` of `4n - 3` frames, without gradient, in the dtype of the frames.
    """
    if "latents" in batch:
        return batch["latents"]
    lr, hr = target_frames(batch)
    with torch.no_grad():
        latents = stage.vae.encode(hr)[0] if stage.encoder is None else stage.encoder.encode(hr, lr)
    return latents.to(hr.dtype)


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

    Also ``val/deviation``, the standard deviation of the samples over that of latents of the truth, and
    ``val/kurtosis`` of the samples, where the stage has a network for those latents.

    Args:
        stage: Has ``dit``, ``projection``, ``decoder``, ``vae``, ``encoder``, ``schedule`` and ``prompt``; some may be
            None. Without a transformer the decoder gets zeros.
        batch: As in training; its images are passed over.
        steps: Of the schedule's sampler.

    Returns:
        ``{"lr", "sr", "hr"}``, each `[B, 3, T - 4, H, W]` in [-1, 1].
    """
    lr, hr = target_frames(batch)
    decoder = stage.vae if stage.decoder is None else stage.decoder
    if stage.dit is None:
        latents = lr.new_zeros(latent_shape(decoder.latent_channels, lr))
    else:
        cells = latent_shape(stage.dit.channels, lr)[1:]
        noise = seeded_normal(batch["seed"], "validation", size=cells).to(lr.dtype)
        tokens = project(stage.projection, batch["lr"])
        latents = stage.schedule.sample(stage.dit, noise, tokens, steps=steps, prompt=stage.prompt).to(lr.dtype)
        _log_spread(stage, latents, batch)
    frames, _ = decoder(latents, lr, None)
    sr = frames.float().clamp(-1, 1)
    stage.log("val/psnr", batch_psnr(sr, hr).mean(), batch_size=lr.shape[0], sync_dist=True)
    return {"lr": lr, "sr": sr, "hr": hr}


def latent_shape(channels: int, frames: Tensor) -> tuple[int, int, int, int, int]:
    """Shape of the latents of frames `[B, 3, T, H, W]`, the first alone and every four later ones together."""
    batch, _, count, height, width = frames.shape
    return batch, channels, (count + 3) // 4, height // 8, width // 8


def _log_spread(stage: Any, latents: Tensor, batch: Batch) -> None:
    if stage.vae is None and stage.encoder is None:
        return
    deviation, kurtosis = deviation_and_kurtosis(latents)
    truth, _ = deviation_and_kurtosis(target_latents(stage, batch))
    for name, value in (("deviation", deviation / truth.clamp_min(1e-12)), ("kurtosis", kurtosis)):
        stage.log(f"val/{name}", value, batch_size=latents.shape[0], sync_dist=True)
