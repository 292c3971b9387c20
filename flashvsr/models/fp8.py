"""Linear layers in 8-bit floats, an explicit fast mode of inference: half the time of bf16 products, and less exact."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu as gelu_of
from torch.nn.functional import linear

from flashvsr.kernels import takes_kernel, unavailable

FP8 = torch.float8_e4m3fn


def quantize_rows(x: Tensor, *, gelu: bool = False, impl: str = "auto") -> tuple[Tensor, Tensor]:
    """Scale every row so that its largest magnitude is that of e4m3, 448, and round.

    Args:
        x: `[N, D]`.
        gelu: Whether the tanh-approximated GELU of `x` is meant.
        impl: ``"plain"`` (any device), ``"triton"`` (one kernel on a GPU), or ``"auto"``: the kernel where it can run.

    Returns:
        `[N, D]` in e4m3 and the scales `[N, 1]` fp32, whose product is `x` to about 3 %.

    Raises:
        ImplUnavailableError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if takes_kernel(impl, unavailable("quantize", x.device, x.dtype)):
        from flashvsr.kernels.quantize import launch_quantize

        return launch_quantize(x, FP8, gelu)
    wide = gelu_of(x.float(), approximate="tanh") if gelu else x.float()
    scale = wide.abs().amax(1, keepdim=True).clamp_min(1e-12) / torch.finfo(FP8).max
    return (wide / scale).to(FP8), scale


class QuantizedRows(NamedTuple):
    """Tokens in e4m3, for several layers that take the same.

    Attributes:
        rows: `[N, D]`.
        scales: `[N, 1]` fp32.
        shape: Of the tokens without D.
        dtype: That they had.
    """

    rows: Tensor
    scales: Tensor
    shape: torch.Size
    dtype: torch.dtype


class Fp8Linear(nn.Module):
    """A linear layer with weights and inputs in e4m3, scaled by output channel and by token; inference only.

    Args:
        exact: The layer it stands for.

    Attributes:
        impl: ``"fp8"`` multiplies in 8-bit floats, on a GPU that can. ``"plain"`` imitates it: rows and weights are
            rounded to e4m3 and multiplied in fp32. ``"auto"`` imitates on a CPU only: on a GPU it runs or raises.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, exact: nn.Linear) -> None:
        super().__init__()
        self.impl = "auto"
        self.in_features, self.out_features = exact.in_features, exact.out_features
        weight, scale = quantize_rows(exact.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", exact.bias.detach())

    @staticmethod
    def quantize(x: Tensor, *, gelu: bool = False) -> QuantizedRows:
        """Quantise `[..., D]` once for all layers that take it."""
        return QuantizedRows(*quantize_rows(x.flatten(0, -2), gelu=gelu), x.shape[:-1], x.dtype)

    def forward(self, x: Tensor | QuantizedRows, *, gelu: bool = False) -> Tensor:
        """`[..., in]`, perhaps quantised before, to `[..., out]` in the dtype of `x`.

        Args:
            x: The input.
            gelu: Whether a tanh-approximated GELU comes before the layer, of an input that is not yet quantised.

        Raises:
            ImplUnavailableError: If products in 8-bit floats are meant and cannot run.
            ValueError: If `impl` is unknown.
        """
        rows, scales, shape, dtype = x if isinstance(x, QuantizedRows) else self.quantize(x, gelu=gelu)
        impl = "fp8" if self.impl == "auto" and rows.is_cuda else self.impl
        if takes_kernel(impl, unavailable("fp8_product", rows.device, dtype), kernel="fp8"):
            out = torch._scaled_mm(rows, self.weight.t(), scales, self.scale, self.bias, out_dtype=dtype)
        else:
            out = linear(rows.float() * scales, self.weight.float() * self.scale.t(), self.bias.float()).to(dtype)
        return out.unflatten(0, shape)
