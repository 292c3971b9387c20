"""Block-sparse attention as one operator, for graphs that ``torch.compile`` and ``torch.export`` make.

Block lists have sizes that depend on the mask, and kernels are launched from Python: a tracer sees through neither. As
an operator they run as they do eagerly, and a graph that holds them stays whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashvsr.attention.impl import (
    autograd,
    flex,
    gather,
    hopper,
    hopper_8bit,
    plain_8bit,
    reference,
    triton,
    triton_8bit,
)

_IMPLS: dict[str, Any] = {
    "hopper": hopper,
    "triton": triton,
    "gather": gather,
    "flex": flex,
    "reference": reference,
    "hopper_8bit": hopper_8bit,
    "triton_8bit": triton_8bit.EIGHT_BIT,
    "triton_int8": triton_8bit.INT8,
    "plain_8bit": plain_8bit.EIGHT_BIT,
    "plain_int8": plain_8bit.INT8,
}
_ARGUMENTS = (
    "Tensor query, Tensor[] keys, Tensor[] values, Tensor block_mask, Tensor? key_mask, "
    "int block_size, float scale, str impl"
)


def attend(
    impl: str,
    query: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    block_mask: Tensor,
    key_mask: Tensor | None,
    *,
    block_size: int,
    scale: float,
) -> Tensor:
    """Attend by the implementation of that name, in one operator; gradients compute the forward pass again.

    Args:
        impl: Any but ``"dense"``, which needs no operator.
        query: As for every implementation.
        keys: Likewise.
        values: Likewise.
        block_mask: Likewise.
        key_mask: Likewise.
        block_size: Likewise.
        scale: Likewise.

    Returns:
        `[B, heads, N, D]`, stored token-major (a view of contiguous `[B, N, heads, D]`).
    """
    return _forward(query, list(keys), list(values), block_mask, key_mask, block_size, scale, impl).transpose(1, 2)


@torch.library.custom_op("flashvsr::block_sparse_attention", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor")
def _forward(
    query: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    block_mask: Tensor,
    key_mask: Tensor | None,
    block_size: int,
    scale: float,
    impl: str,
) -> Tensor:
    extra = {} if key_mask is None else {"key_mask": key_mask}
    out = _IMPLS[impl].attend(
        query, tuple(keys), tuple(values), block_mask, block_size=block_size, scale=scale, **extra
    )
    out = out.transpose(1, 2).contiguous()  # [B, N, heads, D]
    return out.clone() if out.data_ptr() == query.data_ptr() else out  # an operator's result is no view of its input


@_forward.register_fake
def _(query: Tensor, *_: Any) -> Tensor:
    batch, heads, tokens, head_dim = query.shape
    return query.new_empty(batch, tokens, heads, head_dim)


@torch.library.custom_op(
    "flashvsr::block_sparse_attention_backward", mutates_args=(), schema=f"(Tensor grad, {_ARGUMENTS}) -> Tensor[]"
)
def _backward(
    grad: Tensor,
    query: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    block_mask: Tensor,
    key_mask: Tensor | None,
    block_size: int,
    scale: float,
    impl: str,
) -> list[Tensor]:
    if impl in ("hopper", "triton"):
        launch: Any = _IMPLS[impl]
        pieces = autograd.gradients_with(
            launch.launches(), grad, query, tuple(keys), tuple(values), block_mask, block_size=block_size, scale=scale
        )
        return [x.contiguous() for x in pieces]
    key, value = torch.cat(keys, 2), torch.cat(values, 2)
    sizes = [x.shape[2] for x in keys]
    to_query, to_key, to_value = gather.gradients(
        grad, query, key, value, block_mask, block_size=block_size, scale=scale, key_mask=key_mask
    )
    pieces = [to_query, *to_key.split(sizes, 2), *to_value.split(sizes, 2)]
    return [torch.empty_like(x, memory_format=torch.contiguous_format).copy_(x) for x in pieces]


@_backward.register_fake
def _(grad: Tensor, query: Tensor, keys: list[Tensor], values: list[Tensor], *_: Any) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query, *keys, *values)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, keys, values, block_mask, key_mask, ctx.block_size, ctx.scale, ctx.impl = inputs
    ctx.pieces = len(keys)
    ctx.save_for_backward(query, *keys, *values, block_mask, key_mask)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    query, *rest = ctx.saved_tensors
    keys, values, (block_mask, key_mask) = rest[: ctx.pieces], rest[ctx.pieces : -2], rest[-2:]
    gradients = _backward(
        grad.transpose(1, 2), query, keys, values, block_mask, key_mask, ctx.block_size, ctx.scale, ctx.impl
    )
    return gradients[0], gradients[1 : 1 + ctx.pieces], gradients[1 + ctx.pieces :], None, None, None, None, None


torch.library.register_autograd("flashvsr::block_sparse_attention", _gradients, setup_context=_setup_context)
