"""Block-sparse attention on a GPU: Triton kernels for forward and backward, compiled at their first call.

Every query block walks the list of key blocks that its mask row keeps, so that time and memory follow what is kept.
The lists are made from the block mask, on the device and without synchronisation; the backward pass makes them again
instead of keeping them. Keys and values are read where they lie: two pieces are never joined, and token-major storage
needs no copy. There are no atomics, so results repeat bit for bit.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from flashvsr import kernels
from flashvsr.attention.impl.autograd import attend_with

HEAD_DIMS = (16, 32, 64, 128)


def unavailable(
    device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool, block_size: int = 128
) -> str | None:
    """Say why the kernels cannot run; None when they can.

    Args:
        device: A CUDA device, or the CPU when Triton's interpreter is on (``TRITON_INTERPRET=1`` in the environment).
        dtype: bf16, fp16 or fp32; not bf16 under the interpreter, which gets its products wrong.
        head_dim: One of :data:`HEAD_DIMS`.
        requires_grad: Of no matter here.
        block_size: Likewise; :func:`attend` refuses those it does not take.

    Returns:
        The reason in one line, or None.
    """
    if head_dim not in HEAD_DIMS:
        return f"head dim {head_dim} is not one of {', '.join(map(str, HEAD_DIMS))}"
    return kernels.unavailable("attention_triton", device, dtype)


@cache
def launches() -> ModuleType:
    """The module of the launches; Triton is imported here, at the first call."""
    return import_module("flashvsr.kernels.attention_triton_launch")


def attend(
    query: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    block_mask: Tensor,
    *,
    block_size: int,
    scale: float,
) -> Tensor:
    """Attend to the kept blocks; products in the dtype of the input, sums and softmax in fp32.

    Args:
        query: `[B, heads, N, D]`, any strides; like all below it is read in place when D is contiguous.
        keys: Pieces `[B, heads, M_i, D]`. One or two are read in place; of more, all but the last are joined first.
        values: As `keys`.
        block_mask: Boolean `[B, heads, N/block_size, M/block_size]`; one expanded over B or heads is listed once.
        block_size: A power of two, at least 16.
        scale: Factor on the scores, positive.

    Returns:
        `[B, heads, N, D]` in the dtype of `query`, stored token-major (a view of contiguous `[B, N, heads, D]`). Rows
        without kept blocks are zero and send no gradient.

    Raises:
        ValueError: If `block_size` or `scale` is out of range.

    Reference:
        FlashAttention-2, https://arxiv.org/abs/2307.08691.
    """
    if block_size < 16 or block_size & (block_size - 1):
        raise ValueError(f"impl 'triton' takes blocks of 16, 32, 64, 128, ... tokens, got {block_size}")
    if not scale > 0:
        raise ValueError(f"impl 'triton' takes a positive scale, got {scale}")
    return attend_with(launches(), query, keys, values, block_mask, block_size=block_size, scale=scale)
