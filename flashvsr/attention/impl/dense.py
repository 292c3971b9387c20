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
    key_mask: Tensor | None = None,
) -> Tensor:
    """Let empty rows see everything, so that SDPA stays finite, and zero them afterwards."""
    key, value, broken = clear_broken_tokens(torch.cat(keys, 2), torch.cat(values, 2))
    filled = block_mask.any(-1, keepdim=True)  # [B, heads, query blocks, 1]
    mask = (block_mask | ~filled).repeat_interleave(block_size, 2).repeat_interleave(block_size, 3)
    if key_mask is not None:
        mask, broken = mask & key_mask | ~filled.repeat_interleave(block_size, 2), broken & key_mask
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    sees_broken = block_mask & broken.unflatten(2, (-1, block_size)).any(3)[:, :, None]  # [B, heads, rows, columns]
    out = out.masked_fill(sees_broken.any(-1, keepdim=True).repeat_interleave(block_size, 2), float("nan"))
    return out.masked_fill(~filled.repeat_interleave(block_size, 2), 0.0)


def clear_broken_tokens(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zero the tokens that are not finite: the weight of a hidden token is 0, but 0 times NaN is NaN.

    Args:
        key: `[B, heads, M, D]`.
        value: As `key`.

    Returns:
        Both without such tokens, and where these were, `[B, heads, M]`: a query that sees one has no finite result.
    """
    broken = ~(key.isfinite() & value.isfinite()).all(-1)
    return key.masked_fill(broken[..., None], 0.0), value.masked_fill(broken[..., None], 0.0), broken
