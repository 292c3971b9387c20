# mypy: disable-error-code=no-untyped-def
"""The Triton kernel of rms_norm and norm_rope: one program per token reads a row and writes it normed, and rotated."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm_rope(
    x,
    weight,
    table,
    out,
    tokens,
    eps,
    DIM: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED: tl.constexpr,
    ROTATE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, PADDED)
    inside = channel < DIM
    wide = tl.load(x + row * DIM + channel, mask=inside, other=0.0).to(tl.float32)
    mean_square = tl.sum(wide * wide, 0) / DIM
    normed = (wide * tl.rsqrt(mean_square + eps)).to(out.dtype.element_ty).to(tl.float32)
    result = (normed * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)).to(out.dtype.element_ty)
    if ROTATE:
        even, odd = tl.split(tl.reshape(result.to(tl.float32), (PADDED // 2, 2)))
        entry = table + (row % tokens) * HEAD_DIM + (tl.arange(0, PADDED // 2) % (HEAD_DIM // 2)) * 2
        cos, sin = tl.load(entry), tl.load(entry + 1)
        rotated = tl.join(even * cos - odd * sin, even * sin + odd * cos)
        result = tl.reshape(rotated, (PADDED,)).to(out.dtype.element_ty)
    tl.store(out + row * DIM + channel, result, mask=inside)


def launch_norm_rope(x: Tensor, weight: Tensor, eps: float, table: Tensor | None = None, heads: int = 1) -> Tensor:
    """Norm the rows of a tensor, and rotate them where there is a table.

    Args:
        x: `[B, N, dim]`.
        weight: `[dim]`.
        eps: Of the norm.
        table: `[N, D/2, 2]` with ``D = dim / heads``, or None.
        heads: Attention heads.

    Returns:
        `[B, N, dim]`, contiguous.
    """
    batch, tokens, dim = x.shape
    x = x.contiguous()
    out = torch.empty_like(x)
    with torch.cuda.device_of(x):
        _norm_rope[batch * tokens,](
            x,
            weight,
            weight if table is None else table.contiguous(),
            out,
            tokens,
            eps,
            DIM=dim,
            HEAD_DIM=dim // heads,
            PADDED=triton.next_power_of_2(dim),
            ROTATE=table is not None,
            num_warps=4,
            enable_fp_fusion=False,  # a fused multiply-add rounds differently from PyTorch
        )
    return out
