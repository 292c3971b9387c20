"""Linear layers in 8-bit floats, an explicit fast mode of inference: half the time of bf16 products, and less exact."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu as gelu_of
from torch.nn.functional import linear

FP8 = torch.float8_e4m3fn


def quantize_rows(x: Tensor, *, gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Scale every row so that its largest magnitude is that of e4m3, 448, and round.

    Args:
        x: `[N, D]`.
        gelu: Whether the tanh-approximated GELU of `x` is meant.

    Returns:
        `[N, D]` in e4m3 and the scales `[N, 1]` fp32, whose product is `x` to about 3 %.
    """
    if x.is_cuda and find_spec("triton") is not None:
        from flashvsr.kernels.quantize import launch_quantize

        return launch_quantize(x, FP8, gelu)
    wide = gelu_of(x.float(), approximate="tanh") if gelu else x.float()
    scale = wide.abs().amax(1, keepdim=True).clamp_min(1e-12) / torch.finfo(FP8).max
    return (wide / scale).to(FP8), scale


class Fp8Linear(nn.Module):
    """A linear layer with weights and inputs in e4m3, scaled by output channel and by token; inference only.

    Args:
        exact: The layer it stands for.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, exact: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = exact.in_features, exact.out_features
        weight, scale = quantize_rows(exact.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", exact.bias.detach())

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """`[..., in]` to `[..., out]` in the dtype of `x`; `gelu` puts one, tanh-approximated, before the layer."""
        rows, scales = quantize_rows(x.flatten(0, -2), gelu=gelu)
        if x.is_cuda:
            out = torch._scaled_mm(rows, self.weight.t(), scales, self.scale, self.bias, out_dtype=x.dtype)
        else:
            out = linear(rows.float() * scales, self.weight.float() * self.scale.t(), self.bias.float()).to(x.dtype)
        return out.unflatten(0, x.shape[:-1])


def unavailable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why products in 8-bit floats cannot run on a device; None when they can. A CPU only imitates them."""
    if device.type != "cuda":
        return None
    if dtype != torch.bfloat16:
        return f"their results are bfloat16, not {dtype}"
    major, minor = torch.cuda.get_device_capability(device)
    return None if (major, minor) >= (8, 9) else f"needs compute capability 8.9, this GPU has {major}.{minor}"
