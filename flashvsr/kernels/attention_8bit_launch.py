"""Launches of the kernels of block-sparse attention in 8 bits, which need Triton: quantisation, then attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from flashvsr.kernels import attention_8bit as kernels
from flashvsr.kernels.attention_triton_launch import (
    SMALL,
    BlockLists,
    Operands,
    Tile,
    choose_tiles,
    empty_token_major,
)

SMALL_FP8 = Tile(128, 32, 8, 3)
"""Where the tile of the Triton kernel is small and values are in 8 bits: with 64 columns sm_120 spills registers."""


class Quantized(NamedTuple):
    """Queries, keys and values as the attention kernel reads them, all contiguous but values that were left alone."""

    query: Tensor  # [B, heads, N, D] int8
    query_scale: Tensor  # [B, heads, N/block_size] fp32
    key: Tensor  # [B, heads, M, D] int8
    key_scale: Tensor  # [B, heads, M/block_size] fp32
    values: tuple[Tensor, Tensor]  # [B, heads, M/block_size, D, block_size] in 8 bits twice, or the pieces as they came
    value_scale: Tensor | None  # [B, heads, M/block_size] fp32


def quantize(
    operands: Operands, block_mask: Tensor, value_dtype: torch.dtype | None, *, in_operand_order: bool = False
) -> Quantized:
    """Quantise what the block mask keeps; what no query attends to is not read.

    Args:
        operands: Query, keys and values.
        block_mask: Boolean `[B, heads, N/block_size, M/block_size]`.
        value_dtype: Of the quantised values; None leaves them as they are.
        in_operand_order: Whether the tokens of a block of values stand as the Hopper kernel wants them.
    """
    query, block_size = operands.query, operands.block_size
    batch, heads, tokens, head_dim = query.shape
    kept = block_mask.any(2).contiguous()  # [B, heads, M/block_size]
    blocks = kept.shape[2]
    first, second = operands.keys[0], operands.keys[-1]
    sizes = (heads, blocks, first.shape[2] // block_size)
    shared = {"BLOCK": block_size, "D": head_dim, "num_warps": 8, "enable_fp_fusion": True}
    constants = {"PIECES": len(operands.keys), **shared}
    strides = [stride for x in (first, second) for stride in x.stride()[:3]]
    new = query.new_empty
    means = new(batch, heads, blocks, head_dim, dtype=torch.float32)
    q, q_scale = new(query.shape, dtype=torch.int8), new(batch, heads, tokens // block_size, dtype=torch.float32)
    k = new(batch, heads, blocks * block_size, head_dim, dtype=torch.int8)
    k_scale = new(batch, heads, blocks, dtype=torch.float32)
    mask = kept.view(torch.uint8)
    with torch.cuda.device_of(query):
        rows, grid = q_scale.shape[2], (blocks, batch * heads)
        kernels.mean_of_blocks[grid](first, second, mask, means, *strides, *sizes, **constants)
        mean = means.nan_to_num(0.0, 0.0, 0.0).sum(2) / kept.sum(2).clamp_min(1)[..., None]
        kernels.quantize_blocks[grid](first, second, mask, mean, k, k_scale, *strides, *sizes, KEYS=True, **constants)
        kernels.quantize_blocks[rows, batch * heads](
            query, query, mask, mean, q, q_scale, *query.stride()[:3], *query.stride()[:3], heads, rows, rows,
            KEYS=False, PIECES=1, **shared,
        )  # fmt: skip
        first, second = operands.values[0], operands.values[-1]
        if value_dtype is None:
            return Quantized(q, q_scale, k, k_scale, (first, second), None)
        v = new(batch, heads, blocks, head_dim, block_size, dtype=value_dtype)
        v_scale = torch.empty_like(k_scale)
        strides = [stride for x in (first, second) for stride in x.stride()[:3]]
        largest = torch.finfo(value_dtype).max
        kernels.quantize_values[grid](
            first, second, mask, v, v_scale, *strides, *sizes, largest, REORDER=in_operand_order, **constants
        )
    return Quantized(q, q_scale, k, k_scale, (v, v), v_scale)


def choose_tile(device: torch.device, fp8_values: bool) -> Tile:
    """The tile of the attention kernel: that of the Triton kernel for bf16, which takes no less shared memory."""
    tile = choose_tiles(device, torch.bfloat16).forward
    return SMALL_FP8 if fp8_values and tile == SMALL.forward else tile


def forward(operands: Operands, block_mask: Tensor, value_dtype: torch.dtype | None) -> Tensor:
    """Return the output `[B, heads, N, D]`; see :func:`quantize` for the arguments."""
    query = operands.query
    lists = BlockLists.of(block_mask)
    quantized = quantize(operands, block_mask, value_dtype)
    fp8_values = value_dtype is not None
    tile = choose_tile(query.device, fp8_values)
    grid = operands.grid(query, tile)
    out = empty_token_major(query)
    order = lists.fullest_first(grid[0] * grid[1])
    values = quantized.values
    with torch.cuda.device_of(query):
        kernels.attend_8bit[grid](
            quantized.query, quantized.key, *values, quantized.query_scale, quantized.key_scale,
            quantized.key_scale if quantized.value_scale is None else quantized.value_scale, out,
            lists.counts, lists.indices, lists.counts if order is None else order,
            *values[0].stride()[:3], *values[1].stride()[:3], *out.stride()[:3],
            query.shape[1], *lists.indices.shape[2:], *lists.strides,
            operands.values[0].shape[2] // operands.block_size, operands.scale_log2,
            FP8_VALUES=fp8_values, PIECES=len(operands.values), ORDERED=order is not None, **operands.constants(tile),
        )  # fmt: skip
    return out
