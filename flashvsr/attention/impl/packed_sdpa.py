"""Packed attention as one SDPA call per sample: exact, any device, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def unavailable(device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool) -> str | None:
    """Say why this implementation cannot run; None when it can."""
    return None


def attend_packed(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], *, scale: float) -> Tensor:
    """Attend inside each sample.

    Args:
        query: `[B, heads, N, D]` with ``N = sum(lengths)``.
        key: As `query`.
        value: As `query`.
        lengths: Tokens of each sample.
        scale: Factor on the scores.

    Returns:
        `[B, heads, N, D]`, stored token-major (a view of contiguous `[B, N, heads, D]`).
    """
    samples = zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True)
    outputs = [scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2) for q, k, v in samples]
    return torch.cat(outputs, 1).transpose(1, 2)
