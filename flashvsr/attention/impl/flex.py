"""Block-sparse attention through PyTorch's FlexAttention: compiled once per shape, trains on a GPU only."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from types import ModuleType

import torch
from torch import Tensor

SHAPES = 64
"""How many shapes are compiled before FlexAttention gives up with an error; torch's own limit is 8."""


def unavailable(
    device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool, block_size: int = 128
) -> str | None:
    """Say why FlexAttention cannot run; None when it can.

    Args:
        device: A CUDA device; on the CPU there is a forward pass only, and compiling it takes about 20 s.
        dtype: bf16, fp16 or fp32.
        head_dim: At least 16.
        requires_grad: Whether gradients are wanted.
        block_size: Ignored here; :func:`attend` refuses sizes that it does not take.

    Returns:
        The reason in one line, or None.
    """
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"{dtype} is not bfloat16, float16 or float32"
    if head_dim < 16:
        return f"head dim {head_dim} is less than 16"
    if device.type == "cpu":
        if requires_grad:
            return "on a CPU FlexAttention has no backward pass"
        compiler = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
        return None if compiler else "on a CPU FlexAttention needs a C++ compiler (g++ or clang++), none is on PATH"
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"needs a CUDA GPU or the CPU, not device '{device}'"
    return "triton is not installed (pip install triton)" if find_spec("triton") is None else None


def attend(
    query: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    block_mask: Tensor,
    *,
    block_size: int,
    scale: float,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Attend to the kept blocks; pieces of keys and values are joined, which copies them.

    Args:
        query: `[B, heads, N, D]`.
        keys: Pieces `[B, heads, M_i, D]`.
        values: As `keys`.
        block_mask: Boolean `[B, heads, N/block_size, M/block_size]`; one expanded over B or heads is listed once.
        block_size: On a GPU a multiple of 128, the size of FlexAttention's own tiles.
        scale: Factor on the scores.
        key_mask: Boolean `[M]`, keys that take part; None for all.

    Returns:
        `[B, heads, N, D]` in the dtype of `query`; rows without kept blocks are zero.

    Raises:
        ValueError: If `block_size` does not suit the GPU kernels.

    Reference:
        Flex Attention, https://arxiv.org/abs/2412.05496; its BlockMask holds the kept blocks as *full* ones, so that no
        mask function is evaluated and nothing of size N x M exists.
    """
    if query.device.type == "cuda" and block_size % 128:
        raise ValueError(f"impl 'flex' takes blocks of a multiple of 128 tokens on a GPU, got {block_size}")
    for dim in (0, 1):
        if block_mask.stride(dim) == 0:
            block_mask = block_mask.narrow(dim, 0, 1)
    key, value = (pieces[0] if len(pieces) == 1 else torch.cat(pieces, 2) for pieces in (keys, values))
    whole = torch.ones_like(block_mask[0, 0, 0]) if key_mask is None else key_mask.view(-1, block_size).all(1)
    partly_kept, fully_kept = block_mask & ~whole, block_mask & whole
    if key_mask is not None:  # a hidden key must not be read: 0 times NaN is NaN
        key, value = (x.masked_fill(~key_mask[:, None], 0.0) for x in (key, value))
    sparsity = flex().BlockMask.from_kv_blocks(
        *list_kept_blocks(partly_kept),
        *list_kept_blocks(fully_kept),
        BLOCK_SIZE=block_size,
        mask_mod=None if key_mask is None else (lambda batch, head, query_index, key_index: key_mask[key_index]),
        seq_lengths=(query.shape[2], key.shape[2]),
        **_without_backward_lists() if query.device.type == "cpu" else {},
    )
    with torch._dynamo.config.patch(recompile_limit=SHAPES):
        return compiled_flex_attention()(query, key, value, block_mask=sparsity, scale=scale)


def list_kept_blocks(block_mask: Tensor) -> tuple[Tensor, Tensor]:
    """List the kept columns of every row.

    Args:
        block_mask: Boolean `[..., rows, columns]`.

    Returns:
        Their number `[..., rows]`, and all columns `[..., rows, columns]`, the kept ones first; both int32 and
        contiguous, whatever the strides of the mask: FlexAttention reads them as if they were.
    """
    order = block_mask.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return block_mask.sum(-1, dtype=torch.int32).contiguous(), order.to(torch.int32).contiguous()


@cache
def flex() -> ModuleType:
    """PyTorch's module of FlexAttention, imported at the first call: it brings its compiler along."""
    return import_module("torch.nn.attention.flex_attention")


@cache
def _without_backward_lists() -> dict[str, bool]:
    """The argument that spares a forward pass the lists of its backward pass; empty where torch has none."""
    known = signature(flex().BlockMask.from_kv_blocks).parameters
    return {"compute_q_blocks": False} if "compute_q_blocks" in known else {}


@cache
def compiled_flex_attention() -> Callable[..., Tensor]:
    """FlexAttention compiled; ``fullgraph`` turns what would silently run its dense eager form into an error."""
    return torch.compile(flex().flex_attention, dynamic=False, fullgraph=True)
