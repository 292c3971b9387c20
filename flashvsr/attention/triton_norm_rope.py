# mypy: disable-error-code=no-untyped-def
"""The Triton kernel of norm_rope: one program per token reads the row, and writes it normed, weighted and rotated."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _norm_rope(x, weight, table, out, tokens, eps, DIM: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, PADDED)
    inside = channel < DIM
    wide = tl.load(x + row * DIM + channel, mask=inside, other=0.0).to(tl.float32)
    mean_square = tl.sum(wide * wide, 0) / DIM
    normed = (wide * tl.rsqrt(mean_square + eps)).to(out.dtype.element_ty).to(tl.float32)
    weighted = normed * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    weighted = weighted.to(out.dtype.element_ty).to(tl.float32)
    even, odd = tl.split(tl.reshape(weighted, (PADDED // 2, 2)))
    entry = table + (row % tokens) * HEAD_DIM + (tl.arange(0, PADDED // 2) % (HEAD_DIM // 2)) * 2
    cos, sin = tl.load(entry), tl.load(entry + 1)
    rotated = tl.join(even * cos - odd * sin, even * sin + odd * cos)
    tl.store(out + row * DIM + channel, tl.reshape(rotated, (PADDED,)).to(out.dtype.element_ty), mask=inside)


def launch_norm_rope(x: Tensor, weight: Tensor, table: Tensor, heads: int, eps: float) -> Tensor:
    """Run the kernel; arguments and result as for :func:`flashvsr.attention.norm_rope.norm_rope`."""
    batch, tokens, dim = x.shape
    x, table = x.contiguous(), table.contiguous()
    out = torch.empty(batch, tokens, heads, dim // heads, dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(x):
        _norm_rope[batch * tokens,](
            x,
            weight,
            table,
            out,
            tokens,
            eps,
            DIM=dim,
            HEAD_DIM=dim // heads,
            PADDED=triton.next_power_of_2(dim),
            num_warps=4,
            enable_fp_fusion=False,  # a fused multiply-add rounds differently from PyTorch
        )
    return out
