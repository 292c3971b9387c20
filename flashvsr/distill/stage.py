"""What the stages do alike, as functions of a LightningModule: optimizers, sharding, logging and validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flashvsr.distill.batches import project, target_frames, trained
from flashvsr.distill.flow_matching import Predict
from flashvsr.training.gradients import gradient_norm
from flashvsr.training.seeded import seeded_normal
from flashvsr.training.sharding import shard_networks

MakeOptimizer = Callable[[Iterable], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]
Networks = dict[str, nn.Module]


def optimizer_of(make: MakeOptimizer, scheduler: MakeScheduler | None, networks: Networks) -> dict[str, Any]:
    """An optimizer of all that is trained and its schedule, in the form that Lightning takes."""
    optimizer = make(trained(networks))
    made: dict[str, Any] = {"optimizer": optimizer}
    if scheduler is not None:
        made["lr_scheduler"] = {"scheduler": scheduler(optimizer), "interval": "step"}
    return made


def shard(stage: Any, networks: Networks) -> None:
    """Shard networks if the strategy of the stage has a device mesh.

    Raises:
        ValueError: If the strategy keeps processes for tensor parallelism, which Lightning does unless told otherwise.
    """
    if stage.device_mesh is not None:
        if stage.device_mesh["tensor_parallel"].size() > 1:
            raise ValueError(
                "these networks are sharded over data-parallel processes only; pass ModelParallelStrategy "
                "data_parallel_size=<all processes> and tensor_parallel_size=1"
            )
        shard_networks(list(networks.values()), stage.device_mesh["data_parallel"])


def log_gradient_norms(stage: Any, networks: Networks) -> None:
    """Log ``train/grad_norm_<network>``."""
    for name, network in networks.items():
        norm = gradient_norm(network.parameters())
        if norm is not None:
            stage.log(f"train/grad_norm_{name}", norm, batch_size=1)


def velocity_of(dit: nn.Module, tokens: Tensor, prompt: Tensor | None, **arguments: Any) -> Predict:
    """A transformer as a function of noisy latents and timesteps, everything else bound."""

    def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
        velocity, _ = dit(noisy, timestep, lr_tokens=tokens, prompt=prompt, streaming=False, **arguments)
        return velocity

    return predict


def sample_clips(stage: Any, batch: dict[str, Any], steps: int) -> dict[str, Tensor]:
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
    error = (sr - hr).float().square().flatten(1).mean(1).clamp_min(1e-10)
    stage.log("val/psnr", 10 * torch.log10(4 / error).mean(), batch_size=lr.shape[0], sync_dist=True)
    return {"lr": lr, "sr": sr, "hr": hr}
