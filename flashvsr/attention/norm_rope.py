"""RMS norm and rotation of queries and keys: two steps that always come together, in one pass over memory on a GPU."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from flashvsr.attention.rope import apply_rope


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, impl: str = "auto") -> Tensor:
    """Root-mean-square norm over the last axis: in fp32, rounded to the dtype of the input, then weighted.

    Args:
        x: `[B, N, dim]`, any floating dtype.
        weight: `[dim]`.
        eps: Added to the mean square.
        impl: As for :func:`norm_rope`.

    Returns:
        The shape and dtype of `x`.

    Raises:
        RuntimeError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.

    Reference:
        https://arxiv.org/abs/1910.07467, equation 4; the rounding is that of Wan2.1.
    """
    if takes_kernel(impl, _kernel_unavailable(x, weight)):
        from flashvsr.kernels.norm_rope import launch_norm_rope

        return launch_norm_rope(x, weight, eps)
    wide = x.float()
    normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return (normed * weight).to(x.dtype)  # under autocast the weight is fp32


def norm_rope(x: Tensor, weight: Tensor, table: Tensor, *, heads: int, eps: float, impl: str = "auto") -> Tensor:
    """Norm over all heads together, then rotate each head.

    Args:
        x: `[B, N, dim]`, projected queries or keys.
        weight: `[dim]`, of the norm.
        table: `[N, D/2, 2]` of :func:`~flashvsr.attention.rope_table`, with ``D = dim / heads``.
        heads: Attention heads.
        eps: Of the norm.
        impl: ``"plain"`` (any device, with backward), ``"triton"`` (one kernel on a GPU, forward only), or ``"auto"``:
            the kernel where it can run. Both round at the same places.

    Returns:
        `[B, N, heads, D]` in the dtype of `x`.

    Raises:
        RuntimeError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if takes_kernel(impl, _kernel_unavailable(x, weight)):
        from flashvsr.kernels.norm_rope import launch_norm_rope

        return launch_norm_rope(x, weight, eps, table, heads).unflatten(2, (heads, -1))
    return apply_rope(rms_norm(x, weight, eps, impl="plain").unflatten(2, (heads, -1)), table)


def takes_kernel(impl: str, reason: str | None) -> bool:
    """Whether the Triton kernel of an operation runs, and not plain PyTorch.

    Args:
        impl: ``"auto"``, ``"plain"`` or ``"triton"``.
        reason: Why the kernel cannot run; None when it can.

    Raises:
        RuntimeError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if impl not in ("auto", "plain", "triton"):
        raise ValueError(f"impl is 'auto', 'plain' or 'triton', got {impl!r}")
    if impl == "triton" and reason:
        raise RuntimeError(f"impl 'triton' cannot run here: {reason}")
    return impl != "plain" and reason is None


def _kernel_unavailable(x: Tensor, weight: Tensor) -> str | None:
    if x.device.type != "cuda":
        return "it needs a GPU"
    if find_spec("triton") is None:
        return "triton is not installed"
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return "it has no backward pass"
    return None
