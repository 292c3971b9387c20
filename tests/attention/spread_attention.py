"""A script for test_attention_lit.py: distil a layer for two steps, as one of WORLD_SIZE processes."""

import sys
from functools import partial

import torch

from flashvsr.attention import FullAttention, LocalSparseAttention
from flashvsr.attention.lit import AttentionDistillation, RandomTokens
from tests.processes import save_changes

GRID = (4, 16, 16)


def make_stage() -> AttentionDistillation:
    torch.manual_seed(0)
    student = LocalSparseAttention(16, 2, window_hw=(3, 3), sparse_ratio=0.02, history=1)
    return AttentionDistillation(student, FullAttention(16, 2), partial(torch.optim.SGD, lr=0.1))


def batches(name: str, world: int, rank: int) -> list[dict]:
    whole = list(RandomTokens(16, GRID, batch_size=2, batches=2).train_dataloader())
    return [{**batch, "tokens": batch["tokens"][rank::world]} for batch in whole]


if __name__ == "__main__":
    save_changes(sys.argv[1], {"attention": make_stage}, batches)
