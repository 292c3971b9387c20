# mypy: disable-error-code=no-untyped-def
"""The Triton kernel that turns rows into 8-bit floats with a scale each, after an optional GELU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _quantize(x, out, scales, columns, largest, GELU: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    inside = column < columns
    value = tl.load(x + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    if GELU:  # tanh(z) = 1 - 2 / (exp(2 z) + 1)
        twice = 1.5957691216057308 * (value + 0.044715 * value * value * value)
        value = value * (1.0 - 1.0 / (tl.exp(twice) + 1.0))
    scale = tl.maximum(tl.max(tl.abs(value), 0), 1e-12) / largest
    tl.store(scales + row, scale)
    scaled = tl.minimum(tl.maximum(value / scale, -largest), largest)
    tl.store(out + row * columns + column, scaled.to(out.dtype.element_ty), mask=inside)


def launch_quantize(x: Tensor, dtype: torch.dtype, gelu: bool) -> tuple[Tensor, Tensor]:
    """Do what :func:`~flashvsr.models.fp8.quantize_rows` does, in one pass over memory."""
    x = x.contiguous()
    rows, columns = x.shape
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    padded = triton.next_power_of_2(columns)
    largest = torch.finfo(dtype).max
    with torch.cuda.device_of(x):
        _quantize[rows,](
            x, out, scales, columns, largest, GELU=gelu, PADDED=padded, num_warps=4 if padded < 4096 else 8,
            enable_fp_fusion=True,
        )  # fmt: skip
    return out, scales
