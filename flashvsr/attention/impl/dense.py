"""Block-sparse attention through SDPA with the mask expanded to tokens: exact, saves nothing, never ignores it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


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
    """Let empty rows see everything, so that SDPA stays finite, and zero them afterwards."""
    key, value = torch.cat(keys, 2), torch.cat(values, 2)
    filled = block_mask.any(-1, keepdim=True)  # [B, heads, query blocks, 1]
    mask = (block_mask | ~filled).repeat_interleave(block_size, 2).repeat_interleave(block_size, 3)
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return out * filled.repeat_interleave(block_size, 2)
