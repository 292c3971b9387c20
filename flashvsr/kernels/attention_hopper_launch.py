"""Launches of the Hopper kernels of block-sparse attention, beside the Triton kernels that do what they leave.

It has the names of :mod:`flashvsr.kernels.attention_triton_launch` and takes its place. Importing it needs a Triton
of at least :data:`flashvsr.kernels.available.OLDEST_GLUON`.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from flashvsr.kernels import attention_hopper as hopper_kernels
from flashvsr.kernels import attention_hopper_grad as hopper_grad_kernels
from flashvsr.kernels import attention_triton as triton_kernels
from flashvsr.kernels.attention_triton_launch import BlockLists, Operands, dot_rows, empty_token_major, grad_key_value

__all__ = ["BlockLists", "Operands", "dot_rows", "forward", "grad_key_value", "grad_query"]

STAGES = 2
"""Blocks of keys, and of values, in shared memory at a time: 32 KiB each."""

FULLEST_FIRST = 1024
"""Programs at the end of a launch that run fullest first. A program has a multiprocessor to itself, so what counts is
that the last ones are short; those before stay in the order in which neighbours, which read the same keys, meet."""

ORDERED_TOGETHER = 32
"""Rows that one program puts in their places, by comparing each with all of the last."""


def forward(operands: Operands, lists: BlockLists) -> tuple[Tensor, Tensor]:
    """Return the output `[B, heads, N, D]` and the log2-sum-exp2 of its logits `[B, heads, N]` fp32."""
    query = operands.query
    out = empty_token_major(query)
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    order = order_rows(lists, *query.shape[:2])
    with torch.cuda.device_of(query):
        hopper_kernels.attend_forward[order.shape](
            describe(query, operands.block_size // 2), *_describe_pieces(operands), out, lse,
            lists.counts, lists.indices, order, *out.stride()[:3], query.shape[1], *lists.indices.shape[2:],
            *lists.strides, operands.keys[0].shape[2] // operands.block_size, operands.scale_log2,
            PIECES=len(operands.keys), STAGES=STAGES, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out, lse


def grad_query(operands: Operands, grad: Tensor, lse: Tensor, delta: Tensor, lists: BlockLists) -> Tensor:
    """Return the gradient of the query from the gradient of the output."""
    query = operands.query
    out = empty_token_major(query)
    order = order_rows(lists, *query.shape[:2])
    with torch.cuda.device_of(query):
        hopper_grad_kernels.grad_of_query[order.shape](
            *(describe(x, operands.block_size // 2) for x in (query, grad)), *_describe_pieces(operands), out, lse,
            delta, lists.counts, lists.indices, order, *out.stride()[:3], query.shape[1], *lists.indices.shape[2:],
            *lists.strides, operands.keys[0].shape[2] // operands.block_size, operands.scale, operands.scale_log2,
            PIECES=len(operands.keys), STAGES=STAGES, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def order_rows(lists: BlockLists, batch: int, heads: int) -> Tensor:
    """Rows of all heads in the order in which to run them, `[batch * heads * rows]` int32."""
    counts = lists.counts.expand(batch, heads, -1).flatten()
    total = counts.numel()
    order = torch.empty_like(counts)
    with torch.cuda.device_of(counts):
        triton_kernels.order_rows[triton.cdiv(total, ORDERED_TOGETHER),](
            counts, order, total, max(total - FULLEST_FIRST, 0), ROWS=ORDERED_TOGETHER, LAST=FULLEST_FIRST
        )
    return order


def describe(x: Tensor, rows: int) -> TensorDescriptor:
    """Describe `[B, heads, N, D]` to the tensor memory accelerator, which is to bring in ``rows`` tokens at a time.

    It reads any strides that are multiples of 16 bytes from a base that is; other tensors are copied.
    """
    strides = [stride if size > 1 else x.shape[3] for size, stride in zip(x.shape[:3], x.stride()[:3], strict=True)]
    unit = 16 // x.element_size()
    if x.data_ptr() % 16 or any(stride <= 0 or stride % unit for stride in strides):
        return describe(x.clone(memory_format=torch.contiguous_format), rows)
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8 * x.element_size(), rank=4)
    return TensorDescriptor(x, list(x.shape), [*strides, 1], [1, 1, rows, x.shape[3]], layout)


def _describe_pieces(operands: Operands) -> list[TensorDescriptor]:
    """Key and value of the first and the second piece; an empty piece has no descriptor, so another stands in."""
    pieces, _ = operands.pieces()
    stand_in = next((piece for piece in pieces if piece.numel()), operands.query)
    return [describe(piece if piece.numel() else stand_in, operands.block_size) for piece in pieces]
