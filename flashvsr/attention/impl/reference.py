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
) -> Tensor:
    """Softmax over the kept keys, written out; softmax in at least fp32, memory N x M."""
    key, value = torch.cat(keys, 2), torch.cat(values, 2)
    mask = block_mask.repeat_interleave(block_size, 2).repeat_interleave(block_size, 3)  # [B, heads, N, M]
    power = 2.0 ** min(math.frexp(scale)[1], 0)  # goes in first, exactly, so that products do not overflow fp16
    scores = (query * power) @ key.transpose(2, 3)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * (scale / power)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    weights = weights.masked_fill(~mask.any(-1, keepdim=True), 0.0)  # an empty row attends to nothing
    return weights.to(value.dtype) @ value
