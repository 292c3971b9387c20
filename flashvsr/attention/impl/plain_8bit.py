"""Block-sparse attention in 8 bits, in plain PyTorch: this file defines what the kernels of `triton_8bit` compute.

Queries and keys become int8 with one scale per block and head, after the mean of the keys was taken off: that adds the
same number to all scores of a query, which the softmax ignores, and leaves much smaller numbers to round. Values and
the softmax's weights become e4m3, values with one scale per block and head, or both stay in the dtype of the input.
Sums, scales and the softmax are in fp32. For inference only.

Weights are counted from the largest score of their query, rounded up to a whole power of two, so that the order in
which blocks are visited changes the rounding of no weight that counts.

Reference:
    SageAttention2, https://arxiv.org/abs/2411.10958, sections 3.1 to 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LOG2_E = 1.4426950408889634

SMALLEST_SCALE = 1e-12
"""Stands for the largest magnitude of a block of zeros."""

WEIGHT_RANGE = 256.0
"""Weights, at most 1, are multiplied by it before they are rounded to e4m3, which ends at 448."""


class Plain8Bit:
    """Attention with int8 products of queries and keys.

    Args:
        fp8_values: Whether weights and values are rounded to e4m3, too.
    """

    def __init__(self, *, fp8_values: bool) -> None:
        self.fp8_values = fp8_values

    def unavailable(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool, block_size: int = 128
    ) -> str | None:
        """Say why it cannot run; None when it can: without gradients, always."""
        return "it has no gradients" if requires_grad else None

    def attend(
        self,
        query: Tensor,
        keys: tuple[Tensor, ...],
        values: tuple[Tensor, ...],
        block_mask: Tensor,
        *,
        block_size: int,
        scale: float,
    ) -> Tensor:
        """Attend to the kept blocks, one block of queries after the other; see the other implementations."""
        key, value = torch.cat(keys, 2), torch.cat(values, 2)
        key = key.float() - mean_of_kept(key, block_mask, block_size)
        (q, q_scale), (k, k_scale) = quantize_blocks(query, block_size), quantize_blocks(key, block_size)
        factor = q_scale[..., None] * k_scale[:, :, None] * (scale * LOG2_E)  # [B, heads, query blocks, key blocks]
        v = round_values(value, block_size) if self.fp8_values else value.float()
        out = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
        for b, h, row in block_mask.any(3).nonzero().tolist():
            rows = slice(row * block_size, (row + 1) * block_size)
            columns = block_mask[b, h, row].repeat_interleave(block_size)
            scores = q[b, h, rows].float() @ k[b, h, columns].float().T
            scores = scores * factor[b, h, row].repeat_interleave(block_size)[columns]
            weights = torch.exp2(scores - scores.amax(1, keepdim=True).ceil())
            out[b, h, rows] = self._round(weights, value.dtype) @ v[b, h, columns] / weights.sum(1, keepdim=True)
        return out.to(query.dtype)

    def _round(self, weights: Tensor, dtype: torch.dtype) -> Tensor:
        if self.fp8_values:
            return (weights * WEIGHT_RANGE).to(FP8).float() / WEIGHT_RANGE
        return weights.to(dtype).float()


def mean_of_kept(key: Tensor, block_mask: Tensor, block_size: int) -> Tensor:
    """Mean of the keys of those blocks that some query attends to.

    Args:
        key: `[B, heads, M, D]`.
        block_mask: Boolean `[B, heads, N/block_size, M/block_size]`.
        block_size: Tokens per block.

    Returns:
        `[B, heads, 1, D]` fp32; zero where nothing is kept.
    """
    kept = block_mask.any(2)
    means = key.float().unflatten(2, (-1, block_size)).mean(3).masked_fill(~kept[..., None], 0.0)
    means = means.nan_to_num(0.0, 0.0, 0.0)  # queries that do not attend to a NaN are to stay free of it
    return means.sum(2, keepdim=True) / kept.sum(2).clamp_min(1)[..., None, None]


def quantize_blocks(x: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Scale every block so that its largest magnitude is 127, and round.

    Args:
        x: `[B, heads, N, D]`.
        block_size: Tokens per block.

    Returns:
        int8 `[B, heads, N, D]` and the scales `[B, heads, N/block_size]` fp32; a block with a NaN has the scale NaN.
    """
    blocks = x.float().unflatten(2, (-1, block_size))
    scale = blocks.abs().amax((3, 4)).clamp_min(SMALLEST_SCALE) / 127
    return (blocks / scale[..., None, None]).round().nan_to_num().to(torch.int8).flatten(2, 3), scale


def round_values(value: Tensor, block_size: int) -> Tensor:
    """Round to e4m3 with one scale per block, whose largest magnitude is then 448.

    Args:
        value: `[B, heads, M, D]`.
        block_size: Tokens per block.

    Returns:
        The rounded values `[B, heads, M, D]` in fp32.
    """
    blocks = value.float().unflatten(2, (-1, block_size))
    scale = blocks.abs().amax((3, 4), keepdim=True).clamp_min(SMALLEST_SCALE) / torch.finfo(FP8).max
    return ((blocks / scale).to(FP8).float() * scale).flatten(2, 3)


EIGHT_BIT = Plain8Bit(fp8_values=True)
INT8 = Plain8Bit(fp8_values=False)
