"""A script for test_distill_lit.py: train each stage for two steps, as one of WORLD_SIZE processes.

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
from toy_stages import batch, make_stage

from flashvsr.distill import PatchDiscriminator

STEPS = 2
NAMES = ("joint", "sparse", "sparse_lora", "one_step", "one_step_adversarial")


def make_spread_stage(name: str):
    if name != "one_step_adversarial":
        return make_stage(name, text_dim=8)
    sgd = partial(torch.optim.SGD, lr=0.1)
    torch.manual_seed(0)  # or the discriminator would begin with what the stages before left of the generator's state
    more = {"discriminator": PatchDiscriminator(4), "discriminator_optimizer": sgd, "adversarial_weight": 0.1}
    return make_stage("one_step", text_dim=8, **more)


def whole(x: torch.Tensor) -> torch.Tensor:
    return x.detach().full_tensor() if isinstance(x, DTensor) else x.detach()


def main(out: str) -> None:
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    warnings.filterwarnings("ignore")
    changes = {}
    for strategy in ("ddp_find_unused_parameters_true", "fsdp2") if world > 1 else ("auto",):
        for name in NAMES:
            stage = make_spread_stage(name)
            before = {key: parameter.detach().clone() for key, parameter in stage.named_parameters()}
            per_rank = 2 // world
            samples = [
                list(range(2 * step + rank * per_rank, 2 * step + (rank + 1) * per_rank)) for step in range(STEPS)
            ]
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
            trainer.fit(stage, DataLoader([batch(indices, name == "joint") for indices in samples], batch_size=None))
            stage = trainer.lightning_module
            assert any(isinstance(p, DTensor) for p in stage.parameters()) == (strategy == "fsdp2")
            changes[f"{name} {strategy}"] = {
                key: (whole(parameter) - before[key]).contiguous() for key, parameter in stage.named_parameters()
            }
    if rank == 0:
        torch.save(changes, out)
    if torch.distributed.is_initialized():  # else gloo's threads may still run when the process ends
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
