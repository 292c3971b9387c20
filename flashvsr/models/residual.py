"""What stands between the layers of a transformer block: a gated sum and the norm of it, in one pass on a GPU."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from flashvsr.attention.norm_rope import takes_kernel


def add_(x: Tensor, y: Tensor, gate: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """Add to `x` in place what a layer made of it, for inference.

    Args:
        x: `[B, N, dim]`.
        y: Likewise.
        gate: Factor on `y`, `[B or 1, N or 1, dim]`; None for 1.
        impl: As for :func:`add_norm_`.

    Returns:
        `x`.

    Raises:
        RuntimeError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if takes_kernel(impl, _kernel_unavailable(x, y, gate)):
        from flashvsr.kernels.residual import launch_add_norm

        launch_add_norm(x, y, gate)
        return x
    return x.add_(y) if gate is None else x.addcmul_(gate, y)


def add_norm_(
    x: Tensor, y: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float, *, impl: str = "auto"
) -> Tensor:
    """Add to `x` in place what a layer made of it, and return the layer norm of the sum, for inference.

    Args:
        x: `[B, N, dim]`.
        y: Likewise; its memory may hold the result afterwards.
        gate: Factor on `y`, `[B or 1, N or 1, dim]`; None for 1.
        weight: `[B or 1, N or 1, dim]` or `[dim]`, of the norm.
        bias: Likewise.
        eps: Added to the variance.
        impl: ``"plain"`` (any device), ``"triton"`` (one kernel on a GPU, where all tokens share the gate and the
            norm), or ``"auto"``: the kernel where it can run. Both round the sum, and then the norm.

    Returns:
        `[B, N, dim]`.

    Raises:
        RuntimeError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if takes_kernel(impl, _kernel_unavailable(x, y, gate, weight, bias)):
        from flashvsr.kernels.residual import launch_add_norm

        launch_add_norm(x, y, gate, weight, bias, eps)
        return y
    add_(x, y, gate, impl="plain")
    return scaled_norm(x, weight, bias, eps)


def scaled_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm, times `weight`, plus `bias`, of which each token may have its own: in one pass where it has not."""
    if weight.numel() == x.shape[-1] == bias.numel():
        return layer_norm(x, x.shape[-1:], weight.flatten(), bias.flatten(), eps)
    return torch.addcmul(bias, layer_norm(x, x.shape[-1:], eps=eps), weight)


def _kernel_unavailable(x: Tensor, y: Tensor, *rows: Tensor | None) -> str | None:
    if x.device.type != "cuda":
        return "it needs a GPU"
    if find_spec("triton") is None:
        return "triton is not installed"
    if not (x.is_contiguous() and y.is_contiguous()):
        return "its tensors are not contiguous"
    if any(row is not None and row.numel() != x.shape[-1] for row in rows):
        return "tokens have gates or norms of their own"
    return None
