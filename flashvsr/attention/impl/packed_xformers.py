"""Packed attention through xformers' memory-efficient attention under its block-diagonal bias: one call for all."""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor


@cache
def unavailable(device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool) -> str | None:
    """Say why xformers has no operator for this; None when it has. Remembered, for it asks the operators themselves.

    Args:
        device: A CUDA device.
        dtype: As the operators of the installed wheel support it.
        head_dim: Likewise.
        requires_grad: Whether a backward operator is needed too.

    Returns:
        The reason in one line, or None.
    """
    if find_spec("xformers") is None:
        return "xformers is not installed (pip install xformers)"
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"xformers has no operator for device '{device}', only for CUDA GPUs"
    fmha = _load_quietly()
    sample = torch.empty(1, 16, 1, head_dim, device=device, dtype=dtype, requires_grad=requires_grad)
    bias = fmha.BlockDiagonalMask.from_seqlens([16], device=device)
    inputs = fmha.Inputs(query=sample, key=sample, value=sample, attn_bias=bias)
    reasons = []
    for forward, backward in zip(fmha.ALL_FW_OPS, fmha.ALL_BW_OPS, strict=False):  # one forward has no backward
        missing = [
            *forward.not_supported_reasons(inputs),
            *(backward.not_supported_reasons(inputs) if requires_grad else ()),
        ]
        if not missing:
            return None
        reasons.append(f"{forward.NAME}: {missing[0]}")
    return "no operator of this xformers wheel fits; " + ", ".join(reasons)


def attend_packed(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], *, scale: float) -> Tensor:
    """Attend inside each sample.

    Args:
        query: `[1, heads, N, D]` with ``N = sum(lengths)``; token-major storage, xformers' own layout, needs no copy.
        key: As `query`.
        value: As `query`.
        lengths: Tokens of each sample.
        scale: Factor on the scores.

    Returns:
        `[1, heads, N, D]`, stored token-major (a view of contiguous `[1, N, heads, D]`).

    Reference:
        xFormers, https://facebookresearch.github.io/xformers/components/ops.html, BlockDiagonalMask.
    """
    fmha = _load_quietly()
    bias = fmha.BlockDiagonalMask.from_seqlens(lengths, device=query.device)
    contiguous = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    out = fmha.memory_efficient_attention(*(x.transpose(1, 2) for x in contiguous), attn_bias=bias, scale=scale)
    return out.transpose(1, 2)


@cache
def _load_quietly() -> ModuleType:
    """Import xformers' attention with its logger at ERROR: it warns at import when its wheel and torch differ."""
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return import_module("xformers.ops.fmha")
    finally:
        logger.setLevel(level)
