"""What the scripts share that tests run as each of several processes of a training (fixture ``run_processes``)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "use_distributed_sampler": False,
}


def place() -> tuple[int, int]:
    """How many processes there are, and which of them this is."""
    return int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])


def save_changes(
    out: str,
    stages: Mapping[str, Callable[[], LightningModule]],
    batches: Callable[[str, int, int], list[Any]],
    ddp: str = "ddp",
) -> None:
    """Train stages for an epoch under every strategy and save by how much each parameter and buffer changed.

    With plain gradient descent that is the sum of the gradients times the rate.

    Args:
        out: File of ``{"<stage> <strategy>": {name: change}}``; the strategy of one process is "auto".
        stages: Make each stage, with equal weights in every process and run.
        batches: Of a stage, for this process: ``batches(name, world, rank)``; together those of one process.
        ddp: Strategy that stands for DDP.
    """
    warnings.filterwarnings("ignore")
    world, rank = place()
    changes = {}
    for strategy in (ddp, "fsdp2") if world > 1 else ("auto",):
        for name, make in stages.items():
            stage = make()
            before = {key: value.clone() for key, value in _tensors(stage).items()}
            placed: Any = ModelParallelStrategy(world, 1) if strategy == "fsdp2" else strategy
            trainer = Trainer(devices=world, strategy=placed, max_epochs=1, enable_checkpointing=False, **QUIET)
            trainer.fit(stage, DataLoader(batches(name, world, rank), batch_size=None))
            assert any(isinstance(p, DTensor) for p in stage.parameters()) == (strategy == "fsdp2")
            after = _tensors(stage)
            kind = "auto" if world == 1 else "fsdp2" if strategy == "fsdp2" else "ddp"
            changes[f"{name} {kind}"] = {key: (after[key] - before[key]).contiguous() for key in before}
    if rank == 0:
        torch.save(changes, out)
    if torch.distributed.is_initialized():  # else gloo's threads may still run when the process ends
        torch.distributed.destroy_process_group()


def _tensors(stage: LightningModule) -> dict[str, Tensor]:
    """Floating-point parameters and buffers, gathered where they are sharded."""
    named = {**dict(stage.named_parameters()), **dict(stage.named_buffers())}
    whole = {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in named.items()}
    return {key: value.detach() for key, value in whole.items() if value.is_floating_point()}
