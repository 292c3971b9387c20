"""Block-sparse attention in its plainest form: this file defines what correct means."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def unavailable(
    device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool, block_size: int = 128
) -> str | None:
    """Say why this implementation cannot run; None when it can."""
    return None


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
    """Softmax over the kept keys, one block of queries after the other; softmax in at least fp32."""
    key, value = torch.cat(keys, 2), torch.cat(values, 2)
    kept_tokens = block_mask.repeat_interleave(block_size, 3)  # [B, heads, query blocks, M]
    if key_mask is not None:
        kept_tokens = kept_tokens & key_mask
    heads = zip(*(x.flatten(0, 1) for x in (query, key, value, kept_tokens)), strict=True)
    out = [
        _attend_block(q, k[kept], v[kept], scale)
        for head_query, k, v, rows in heads
        for q, kept in zip(head_query.split(block_size), rows, strict=True)
    ]
    return torch.cat(out).view_as(query)


def _attend_block(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attend from `[block_size, D]` to the kept `[kept, D]`; nothing kept gives zeros."""
    power = 2.0 ** min(math.frexp(scale)[1], 0)  # goes in first, exactly, so that products do not overflow fp16
    scores = (query * power) @ key.T
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * (scale / power)
    return scores.softmax(-1).to(value.dtype) @ value
