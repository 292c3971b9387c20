"""Joins the kernel launches of block-sparse attention to autograd; the launches come as a module."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def attend_with(
    launch: ModuleType,
    query: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    block_mask: Tensor,
    *,
    block_size: int,
    scale: float,
) -> Tensor:
    """Attend to the kept blocks, with the kernels of ``launch`` for the forward and the backward pass.

    Args:
        launch: :mod:`flashvsr.kernels.attention_triton_launch` or :mod:`flashvsr.kernels.attention_hopper_launch`.
        query: `[B, heads, N, D]`, any strides.
        keys: Pieces `[B, heads, M_i, D]`. Of more than two, all but the last are joined first.
        values: As `keys`.
        block_mask: Boolean `[B, heads, N/block_size, M/block_size]`.
        block_size: Tokens per block.
        scale: Factor on the scores, positive.

    Returns:
        `[B, heads, N, D]` in the dtype of `query`, stored token-major (a view of contiguous `[B, N, heads, D]`).
    """
    keys, values = at_most_two(keys), at_most_two(values)
    if torch.is_grad_enabled():
        return _Attention.apply(launch, block_mask, block_size, scale, query, *keys, *values)
    operands = operands_of(launch, query, keys, values, block_size, scale)
    return launch.forward(operands, launch.BlockLists.of(block_mask))[0]


def gradients_with(
    launch: ModuleType,
    grad: Tensor,
    query: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    block_mask: Tensor,
    *,
    block_size: int,
    scale: float,
) -> list[Tensor]:
    """Gradients of query, keys and values, the forward pass computed again: for graphs without autograd.

    Args:
        launch: As for :func:`attend_with`.
        grad: Of the output, `[B, heads, N, D]`.
        query: As for :func:`attend_with`.
        keys: Likewise.
        values: Likewise.
        block_mask: Likewise.
        block_size: Likewise.
        scale: Likewise.

    Returns:
        The gradient of the query, then those of the keys, then those of the values.
    """
    sizes = [x.shape[2] for x in keys]
    operands = operands_of(launch, query, keys, values, block_size, scale)
    lists, transposed = launch.BlockLists.of(block_mask), launch.BlockLists.of(block_mask.transpose(2, 3))
    out, lse = launch.forward(operands, lists)
    grad = with_contiguous_channels(grad)
    delta = launch.dot_rows(out, grad, block_size)
    pairs = [launch.grad_key_value(operands, i, grad, lse, delta, transposed) for i in range(len(operands.keys))]
    joined = (torch.cat([pair[side] for pair in pairs], 2).split(sizes, 2) for side in (0, 1))
    return [launch.grad_query(operands, grad, lse, delta, lists), *(x for side in joined for x in side)]


class _Attention(torch.autograd.Function):
    """Keeps the mask instead of the lists made from it: they are made again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        launch: ModuleType,
        block_mask: Tensor,
        block_size: int,
        scale: float,
        query: Tensor,
        *pieces: Tensor,
    ) -> Tensor:
        half = len(pieces) // 2
        operands = operands_of(launch, query, pieces[:half], pieces[half:], block_size, scale)
        out, lse = launch.forward(operands, launch.BlockLists.of(block_mask))
        ctx.launch, ctx.block_size, ctx.scale = launch, block_size, scale
        ctx.save_for_backward(block_mask, out, lse, operands.query, *operands.keys, *operands.values)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        launch: ModuleType = ctx.launch
        block_mask, out, lse, query, *pieces = ctx.saved_tensors
        half = len(pieces) // 2
        operands = launch.Operands(query, tuple(pieces[:half]), tuple(pieces[half:]), ctx.block_size, ctx.scale)
        grad = with_contiguous_channels(grad)
        delta = launch.dot_rows(out, grad, ctx.block_size)

        query_wanted, *wanted = ctx.needs_input_grad[4:]
        grad_query: Tensor | None = None
        grads: list[Tensor | None] = [None] * len(pieces)
        if query_wanted:
            grad_query = launch.grad_query(operands, grad, lse, delta, launch.BlockLists.of(block_mask))
        if any(wanted):
            lists = launch.BlockLists.of(block_mask.transpose(2, 3))
            for i in range(half):
                if wanted[i] or wanted[half + i]:
                    grads[i], grads[half + i] = launch.grad_key_value(operands, i, grad, lse, delta, lists)
        return None, None, None, None, grad_query, *grads


def with_contiguous_channels(x: Tensor) -> Tensor:
    """`x` itself, or a copy where the last axis is not contiguous."""
    return x if x.stride(3) == 1 else x.contiguous()  # an expanded gradient, as of out.sum(), has stride 0


def at_most_two(pieces: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Pieces `[B, heads, M_i, D]` as the kernels read them: of more than two, all but the last are joined."""
    return pieces if len(pieces) <= 2 else (torch.cat(pieces[:-1], 2), pieces[-1])


def operands_of(
    launch: ModuleType,
    query: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    block_size: int,
    scale: float,
) -> Any:
    """The ``Operands`` of a module of launches, in at most two pieces and with contiguous channels."""
    query, *pieces = map(with_contiguous_channels, (query, *at_most_two(keys), *at_most_two(values)))
    half = len(pieces) // 2
    return launch.Operands(query, tuple(pieces[:half]), tuple(pieces[half:]), block_size, scale)
