"""A script for test_distill_lit.py: train each stage for two steps, as one of WORLD_SIZE processes."""

import sys
from functools import partial

import torch

from flashvsr.distill import PatchDiscriminator
from tests.distill.toy_stages import batch, make_stage
from tests.processes import save_changes

STEPS = 2
NAMES = ("joint", "sparse", "sparse_lora", "one_step", "one_step_adversarial")


def make_spread_stage(name: str):
    if name != "one_step_adversarial":
        return make_stage(name, text_dim=8)
    sgd = partial(torch.optim.SGD, lr=0.1)
    torch.manual_seed(0)  # or the discriminator would begin with what the stages before left of the generator's state
    more = {"discriminator": PatchDiscriminator(4), "discriminator_optimizer": sgd, "adversarial_weight": 0.1}
    return make_stage("one_step", text_dim=8, **more)


def batches(name: str, world: int, rank: int) -> list[dict]:
    per_rank = 2 // world
    starts = (2 * step + rank * per_rank for step in range(STEPS))
    return [batch(list(range(start, start + per_rank)), name == "joint") for start in starts]


if __name__ == "__main__":
    stages = {name: partial(make_spread_stage, name) for name in NAMES}
    save_changes(sys.argv[1], stages, batches, ddp="ddp_find_unused_parameters_true")
