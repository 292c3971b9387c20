"""Gradient norms and clipping, for whole and for sharded parameters, without waiting for the device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor | None:
    """L2 norm of all gradients together, or None when there is none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return None
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def clip_gradients(norm: Tensor, parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale gradients of the given joint `norm` down to `most`, in place."""
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        by_dtype.setdefault(local.dtype, []).append(local)
    for dtype, local_gradients in by_dtype.items():
        torch._foreach_mul_(local_gradients, factor.to(dtype))  # one launch for many tensors


def log_gradient_norms(stage: Any, networks: Mapping[str, nn.Module]) -> None:
    """Log ``train/grad_norm_<network>`` of each network that has gradients.

    Args:
        stage: A LightningModule, in ``on_before_optimizer_step``: gradients are unscaled and not yet clipped.
        networks: By name.
    """
    for name, network in networks.items():
        norm = gradient_norm(network.parameters())
        if norm is not None:
            stage.log(f"train/grad_norm_{name}", norm, batch_size=1)
