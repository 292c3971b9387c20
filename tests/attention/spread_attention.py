"""A script for test_attention_lit.py: distil a layer for two steps, as one of WORLD_SIZE processes.

Saves what plain gradient descent changed in each parameter, which is the sum of the gradients times the rate.
"""

import os
import sys
import warnings
from functools import partial

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from flashvsr.attention import FullAttention, LocalSparseAttention
from flashvsr.attention.lit import AttentionDistillation, RandomTokens

GRID = (4, 16, 16)


def main(out: str) -> None:
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    warnings.filterwarnings("ignore")
    changes = {}
    for strategy in ("ddp", "fsdp2") if world > 1 else ("auto",):
        torch.manual_seed(0)
        student = LocalSparseAttention(16, 2, window_hw=(3, 3), sparse_ratio=0.02, history=1)
        stage = AttentionDistillation(student, FullAttention(16, 2), partial(torch.optim.SGD, lr=0.1))
        before = {name: value.detach().clone() for name, value in stage.student.named_parameters()}
        batches = list(RandomTokens(16, GRID, batch_size=2, batches=2).train_dataloader())
        for batch in batches:
            batch["tokens"] = batch["tokens"][rank::world]
        trainer = Trainer(
            accelerator="cpu",
            devices=world,
            strategy=ModelParallelStrategy(world, 1) if strategy == "fsdp2" else strategy,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        trainer.fit(stage, DataLoader(batches, batch_size=None))
        assert any(isinstance(p, DTensor) for p in stage.parameters()) == (strategy == "fsdp2")
        changes[strategy] = {}
        for name, value in stage.student.named_parameters():
            whole = value.detach().full_tensor() if isinstance(value, DTensor) else value.detach()
            changes[strategy][name] = (whole - before[name]).contiguous()
    if rank == 0:
        torch.save(changes, out)
    if torch.distributed.is_initialized():  # else gloo's threads may still run when the process ends
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
