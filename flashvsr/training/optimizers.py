"""Optimizers and learning rates, and how a stage hands them to Lightning."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

MakeOptimizer = Callable[[Iterable], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]


def collect_trainable(networks: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    """Parameters that ask for a gradient: all, or those of an adapter.

    Args:
        networks: By the name that errors call them.

    Raises:
        ValueError: If there is none.
    """
    parameters = [p for network in networks.values() for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"nothing to train: no parameter of {', '.join(networks)} has requires_grad")
    return parameters


def configure_optimizer(
    networks: Mapping[str, nn.Module], optimizer: MakeOptimizer, scheduler: MakeScheduler | None = None
) -> dict[str, Any]:
    """Make an optimizer of all that is trained, and its schedule, in the form that Lightning takes.

    Args:
        networks: Their parameters with ``requires_grad`` are trained.
        optimizer: Makes the optimizer.
        scheduler: Makes the schedule of its learning rate, stepped after every step; None keeps the rate.

    Raises:
        ValueError: If nothing is to be trained.
    """
    made: dict[str, Any] = {"optimizer": optimizer(collect_trainable(networks))}
    if scheduler is not None:
        made["lr_scheduler"] = {"scheduler": scheduler(made["optimizer"]), "interval": "step"}
    return made


class FanInAdamW(torch.optim.AdamW):
    """AdamW with a learning rate per tensor: ``lr * min(1, base_fan_in / fan_in)``, and ``lr`` for what sums nothing.

    Adam moves every weight by about ``lr``, however many there are, and so the sum of a layer's inputs by up to ``lr *
    fan_in``: fifty times as far at the first layer of nano's decoder, which sees 784 channels in 3x3 neighbourhoods, as
    at its last, which sees 16. A rate that the first can bear is far too small for the last. With 1 / fan_in all layers
    move their outputs alike.

    Args:
        params: Tensors. Vectors (biases, gains) and tables `[1, n, dim]` that are added to every token, such as the
            ``modulation`` of a transformer's blocks, sum no inputs and keep the full rate.
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
            by_rate.setdefault(lr * min(1.0, base_fan_in / _fan_in(tensor)), []).append(tensor)
        groups: list[dict[str, Any]] = [{"params": tensors, "lr": rate} for rate, tensors in by_rate.items()]
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


def _fan_in(tensor: Tensor) -> int:
    """Inputs that each output of a weight sums; 1 for a vector and for a table `[1, n, dim]`."""
    table = tensor.ndim == 3 and tensor.shape[0] == 1
    return 1 if tensor.ndim < 2 or table else tensor.shape[1:].numel()


class WarmupCosine(LambdaLR):
    """Learning rate that rises linearly to the optimizer's own, then falls along a cosine and stays low.

    Args:
        optimizer: Whose rate it is.
        steps: Optimizer steps until the end of the cosine.
        warmup: Steps of the rise.
        floor: Fraction of the rate at the end.
        seconds: Of training until the end of the cosine, when that comes before `steps`: for a run that a limit of time
            ends. What came before a resume counts. The rate then depends on the speed of the machine, so that only one
            process may train. None to count only steps.

    Raises:
        ValueError: If the warm-up is not shorter than the whole, `seconds` not positive, or given to several processes.
    """

    def __init__(
        self, optimizer: Optimizer, steps: int, warmup: int = 0, floor: float = 0.0, seconds: float | None = None
    ) -> None:
        if not 0 <= warmup < steps:
            raise ValueError(f"warmup is at least 0 and below steps, got {warmup} and {steps}: change either")
        if seconds is not None and seconds <= 0:
            raise ValueError(f"seconds is positive or None, got {seconds}")
        if seconds is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
            raise ValueError(f"seconds={seconds} would give processes different rates: use steps alone")
        self._spent, self._since = 0.0, time.monotonic()

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            done = (step - warmup) / (steps - warmup)
            if seconds is not None:
                done = max(done, self._elapsed() / seconds)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

        super().__init__(optimizer, factor)

    def state_dict(self) -> dict[str, Any]:
        """That of the schedule, with the time spent until now."""
        return {**super().state_dict(), "_spent": self._elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; the time since it was saved does not count."""
        super().load_state_dict(state_dict)
        self._since = time.monotonic()

    def _elapsed(self) -> float:
        return self._spent + time.monotonic() - self._since
