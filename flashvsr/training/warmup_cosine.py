"""The usual learning rate: up in a line, down along a cosine."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Learning rate that rises linearly to the optimizer's own, then falls along a cosine and stays low.

    Args:
        optimizer: Whose rate it is.
        steps: Optimizer steps until the end of the cosine.
        warmup: Steps of the rise.
        floor: Fraction of the rate at the end.
        seconds: Of training until the end of the cosine, when that comes before `steps`: for a run that a limit of time
            ends. What came before a resume counts. The rate then depends on the speed of the machine, so that only one
            process may train. None for steps alone.

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
