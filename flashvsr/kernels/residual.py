# mypy: disable-error-code=no-untyped-def
"""The Triton kernel of the sum and the norm between layers: one program per token reads and writes two rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_norm(
    x, y, gate, weight, bias, eps,
    DIM: tl.constexpr, PADDED: tl.constexpr, GATED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(0).to(tl.int64) * DIM
    channel = tl.arange(0, PADDED)
    inside = channel < DIM
    added = tl.load(y + start + channel, mask=inside, other=0.0).to(tl.float32)
    if GATED:
        added *= tl.load(gate + channel, mask=inside, other=0.0).to(tl.float32)
    total = tl.load(x + start + channel, mask=inside, other=0.0).to(tl.float32) + added
    total = total.to(x.dtype.element_ty)
    tl.store(x + start + channel, total, mask=inside)
    if NORM:
        wide = total.to(tl.float32)
        centred = tl.where(inside, wide - tl.sum(wide, 0) / DIM, 0.0)
        normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / DIM + eps)
        normed = normed * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
        normed += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
        tl.store(y + start + channel, normed.to(y.dtype.element_ty), mask=inside)


def launch_add_norm(
    x: Tensor,
    y: Tensor,
    gate: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 0.0,
) -> None:
    """Add ``gate * y`` to `x`; where there is a norm, put that of the sum into `y`.

    Args:
        x: `[B, N, dim]`, contiguous.
        y: Likewise.
        gate: `dim` values in memory, or None for 1.
        weight: `dim` values, or None for no norm.
        bias: `dim` values, with `weight`.
        eps: Added to the variance.
    """
    dim = x.shape[-1]
    gate, weight, bias = (None if row is None else row.contiguous() for row in (gate, weight, bias))
    with torch.cuda.device_of(x):
        _add_norm[x.numel() // dim,](
            x,
            y,
            x if gate is None else gate,
            x if weight is None else weight,
            x if bias is None else bias,
            eps,
            DIM=dim,
            PADDED=triton.next_power_of_2(dim),
            GATED=gate is not None,
            NORM=weight is not None,
            num_warps=4,
            enable_fp_fusion=True,
        )
