"""What the stages that train decoders and autoencoders share: seeded noise, optimizers, sharding, logs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Reconstruction = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, dict[str, Tensor]]]
MakeOptimizer = Callable[[Iterable], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


def seeded_normal(seeds: Tensor, use: str, size: Any) -> Tensor:
    """Normal numbers `[B, *size]` on the device of the seeds, a function of a sample's seed and not of its batch."""
    drawn = []
    for seed in seeds.tolist():
        name = blake2b(f"{seed} {use}".encode(), digest_size=7).digest()
        generator = torch.Generator(seeds.device).manual_seed(int.from_bytes(name, "big"))
        drawn.append(torch.randn(tuple(size), generator=generator, device=seeds.device))
    return torch.stack(drawn)


def seeded_levels(seeds: Tensor, use: str) -> Tensor:
    """Uniform numbers in [0, 1), `[B]`, likewise."""
    drawn = [
        int.from_bytes(blake2b(f"{seed} {use}".encode(), digest_size=6).digest(), "big") for seed in seeds.tolist()
    ]
    return torch.tensor(drawn, dtype=torch.float64, device=seeds.device) / 2**48


def optimizer_of(network: nn.Module, make: MakeOptimizer, scheduler: MakeScheduler | None) -> dict[str, Any]:
    """An optimizer of all of a network that asks for a gradient, and its schedule, in the form that Lightning takes.

    Raises:
        ValueError: If nothing asks for one.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(f"nothing to train: no parameter of {type(network).__name__} has requires_grad")
    made: dict[str, Any] = {"optimizer": make(parameters)}
    if scheduler is not None:
        made["lr_scheduler"] = {"scheduler": scheduler(made["optimizer"]), "interval": "step"}
    return made


def shard(stage: Any, network: nn.Module) -> None:
    """Shard a network over the data-parallel processes when the strategy has a device mesh.

    Raises:
        ValueError: If the strategy keeps processes for tensor parallelism.
    """
    if stage.device_mesh is None or isinstance(network, FSDPModule):
        return
    if stage.device_mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            "a decoder is sharded over data-parallel processes only; pass ModelParallelStrategy "
            "data_parallel_size=<all processes> and tensor_parallel_size=1"
        )
    fully_shard(network, mesh=stage.device_mesh["data_parallel"])
    for method in ("reconstruct", "encode", "decode"):
        if hasattr(network, method):
            register_fsdp_forward_method(network, method)


def log_parts(stage: Any, when: str, kind: str, parts: dict[str, Tensor]) -> None:
    """Log ``<when>/<part>``; an image's and a teacher's with a prefix."""
    prefix = kind.removeprefix("video").strip().replace(" ", "_")
    for name, part in parts.items():
        label = f"{prefix}_{name}" if prefix else name
        stage.log(f"{when}/{label}", part.mean(), batch_size=len(part), sync_dist=when == "val")


def log_validation(stage: Any, reconstruction: Reconstruction, sr: Tensor, hr: Tensor) -> None:
    """Log loss and PSNR (RGB, of [0, 1]) of decoded frames."""
    loss, _ = reconstruction(sr, hr, None)
    error = (sr.float().clamp(-1, 1) - hr.float()).square().flatten(1).mean(1).clamp_min(1e-10)
    log_parts(stage, "val", "video", {"loss": loss, "psnr": 10 * torch.log10(4 / error)})


def log_gradient_norm(stage: Any, name: str) -> None:
    """Log ``train/grad_norm_<name>``."""
    gradients = [p.grad for p in getattr(stage, name).parameters() if p.grad is not None]
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    stage.log(f"train/grad_norm_{name}", norm.full_tensor() if hasattr(norm, "full_tensor") else norm, batch_size=1)


def leave_vae_out(module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """A checkpoint has no use for a frozen VAE."""
    for key in [key for key in state_dict if key.startswith(f"{prefix}vae.")]:
        del state_dict[key]


def fill_vae_in(module: Any, state_dict: dict[str, Any], prefix: str, *unused: Any) -> None:
    """The frozen VAE keeps what the recipe gave it; loading stays strict for everything else."""
    if module.vae is not None:
        for key, value in module.vae.state_dict().items():
            state_dict.setdefault(f"{prefix}vae.{key}", value)
