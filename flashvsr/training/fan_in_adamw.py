"""AdamW whose steps are smaller where a weight has many inputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class FanInAdamW(torch.optim.AdamW):
    """AdamW with a learning rate per tensor: ``lr * min(1, base_fan_in / fan_in)``, and ``lr`` for vectors.

    Adam moves every weight by about ``lr``, however many there are, and so the sum of a layer's inputs by up to ``lr *
    fan_in``: fifty times as far at the first layer of nano's decoder, which sees 784 channels in 3x3 neighbourhoods, as
    at its last, which sees 16. A rate that the first can bear is far too small for the last. With 1 / fan_in all layers
    move their outputs alike.

    Args:
        params: Tensors; vectors are biases, gains and the like.
        lr: Of weights with up to `base_fan_in` inputs.
        betas: Of Adam.
        eps: Of Adam.
        weight_decay: Per step, times the tensor's own rate.
        base_fan_in: Inputs up to which the rate is the full one.

    Raises:
        ValueError: If `base_fan_in` is below 1.

    Reference:
        Yang et al., Tensor programs V, https://arxiv.org/abs/2203.03466, table 3, the rule for Adam.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        base_fan_in: int = 144,
    ) -> None:
        if base_fan_in < 1:
            raise ValueError(f"base_fan_in counts inputs from 1, got {base_fan_in}")
        by_rate: dict[float, list[Tensor]] = {}
        for tensor in params:
            fan_in = tensor.shape[1:].numel() if tensor.ndim > 1 else 1
            by_rate.setdefault(lr * min(1.0, base_fan_in / fan_in), []).append(tensor)
        groups: list[dict[str, Any]] = [{"params": tensors, "lr": rate} for rate, tensors in by_rate.items()]
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
