"""Launch of attention in 8 bits on Hopper GPUs, after the Triton kernels that quantise for it."""

from __future__ import annotations

import torch
from torch import Tensor

from flashvsr.kernels import attention_hopper_8bit as kernels
from flashvsr.kernels.attention_8bit_launch import quantize
from flashvsr.kernels.attention_hopper_launch import describe, order_rows
from flashvsr.kernels.attention_triton_launch import BlockLists, Operands, empty_token_major

STAGES = 3
"""Blocks of keys, and of values, in shared memory at a time: 16 KiB each."""


def forward(operands: Operands, block_mask: Tensor) -> Tensor:
    """Return the output `[B, heads, N, D]`; the block mask is boolean `[B, heads, N/128, M/128]`."""
    query, block_size = operands.query, operands.block_size
    lists = BlockLists.of(block_mask)
    quantized = quantize(operands, block_mask, torch.float8_e4m3fn, in_operand_order=True)
    out = empty_token_major(query)
    order = order_rows(lists, *query.shape[:2])
    with torch.cuda.device_of(query):
        kernels.attend_hopper_8bit[order.shape](
            describe(quantized.query, block_size // 2), describe(quantized.key, block_size),
            describe(quantized.values[0].flatten(2, 3), block_size),
            quantized.query_scale, quantized.key_scale, quantized.value_scale, out,
            lists.counts, lists.indices, order, *out.stride()[:3], query.shape[1], *lists.indices.shape[2:],
            *lists.strides, operands.scale_log2, STAGES=STAGES, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out
