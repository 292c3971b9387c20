"""Attention calls at the shapes of FlashVSR: tensors as they lie in a stream, and masks of several kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from flashvsr.attention import select_blocks, window_mask

BLOCK_SIZE, HEADS, HEAD_DIM, SLOTS = 128, 12, 128, 4
SCALE = HEAD_DIM**-0.5
KEPT_PER_ROW = 120
"""Key blocks kept per query block on average: sparse_ratio 2.0, at any resolution."""
GRIDS = {"768x1408": (6, 11), "2176x3840": (17, 30)}
"""Blocks per slot, rows and columns; one query slot attends to four slots, three of them from a ring."""


class Problem(NamedTuple):
    """One attention call; every tensor is a view of token-major storage."""

    query: Tensor  # [B, heads, N, D]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor  # [B, heads, N/128, M/128]

    @property
    def inputs(self) -> list[Tensor]:
        """What gradients are taken of."""
        return [self.query, *self.keys, *self.values]

    @property
    def flops(self) -> float:
        """Operations of the forward pass on kept blocks: two products, two operations per multiply-add."""
        return 4 * HEAD_DIM * BLOCK_SIZE**2 * self.mask.sum().item()

    @property
    def bytes(self) -> float:
        """What the forward pass moves at least: queries and output, and every key and value that a head keeps."""
        kept = self.mask.any(2).sum().item() * BLOCK_SIZE * HEAD_DIM
        return 2 * (self.query.numel() + kept) * self.query.element_size()


def make_problem(
    batch: int, heads: int, query_blocks: int, key_blocks: list[int], mask: Tensor, dtype: torch.dtype
) -> Problem:
    """Normal random queries, keys and values."""
    tensors = [
        torch.randn(batch, blocks * BLOCK_SIZE, heads, HEAD_DIM, device="cuda")
        .to(dtype)
        .transpose(1, 2)
        .requires_grad_()
        for blocks in (query_blocks, *key_blocks, *key_blocks)
    ]
    pieces = len(key_blocks)
    return Problem(tensors[0], tuple(tensors[1 : pieces + 1]), tuple(tensors[pieces + 1 :]), mask)


def uneven_mask(grid: tuple[int, int]) -> Tensor:
    """The best pairs per head inside the window, as the joint selection leaves them when some rows score higher."""
    window = window_mask(grid, (11, 11)).cuda().repeat(1, SLOTS)  # [S, 4 S]
    score = torch.rand(HEADS, *window.shape, device="cuda") + 0.3 * torch.randn(HEADS, len(window), 1, device="cuda")
    score = score.masked_fill(~window, float("-inf")).flatten(1)
    threshold = score.topk(KEPT_PER_ROW * len(window)).values[:, -1:]
    return (score >= threshold).view(1, HEADS, *window.shape)


def selected_mask(grid: tuple[int, int]) -> Tensor:
    """What the transformer's own selection keeps of tokens that vary slowly over the picture."""
    size = grid[0] * grid[1]
    coarse = torch.randn(2, HEADS, size * SLOTS, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
    query, key = coarse.repeat_interleave(BLOCK_SIZE, 2).unsqueeze(1)
    window = window_mask(grid, (11, 11)).cuda()
    return select_blocks(query[:, :, : size * BLOCK_SIZE], key, window.repeat(1, SLOTS), budget=KEPT_PER_ROW * size)


def random_mask(grid: tuple[int, int], density: float) -> Tensor:
    """Every pair with the same chance, no window."""
    size = grid[0] * grid[1]
    return torch.rand(1, HEADS, size, SLOTS * size, device="cuda") < density


def skewed_mask(grid: tuple[int, int]) -> Tensor:
    """A quarter of the rows keeps nothing, and the longest row keeps everything, four times the mean."""
    size = grid[0] * grid[1]
    share = torch.linspace(0.0, 1.0, size - size // 4, device="cuda") ** 2
    share = torch.cat([torch.zeros(size // 4, device="cuda"), share])[torch.randperm(size, device="cuda")]
    return torch.rand(1, HEADS, size, SLOTS * size, device="cuda") < share[:, None]


MASKS: dict[str, Callable[[tuple[int, int]], Tensor]] = {
    "uneven": uneven_mask,
    "selected": selected_mask,
    "skewed": skewed_mask,
    **{
        f"density {density}": lambda grid, density=density: random_mask(grid, density)
        for density in (0.06, 0.12, 0.25, 0.45, 0.7, 1.0)
    },
}
"""Makers of boolean `[1, heads, S, 4 S]` from blocks per slot, rows and columns."""


def chunk_problem(name: str, dtype: torch.dtype = torch.bfloat16, mask: str = "uneven") -> Problem:
    """One streaming step: a query slot against a ring of three slots and its own keys."""
    grid = GRIDS[name]
    size = grid[0] * grid[1]
    return make_problem(1, HEADS, size, [(SLOTS - 1) * size, size], MASKS[mask](grid), dtype)
