"""The usual learning rate: up in a line, down along a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Learning rate that rises linearly to the optimizer's own, then falls along a cosine and stays low.

    Args:
        optimizer: Whose rate it is.
        steps: Optimizer steps until the end of the cosine.
        warmup: Steps of the rise.
        floor: Fraction of the rate at the end.

    Raises:
        ValueError: If the warm-up is not shorter than the whole.
    """

    def __init__(self, optimizer: Optimizer, steps: int, warmup: int = 0, floor: float = 0.0) -> None:
        if not 0 <= warmup < steps:
            raise ValueError(f"warmup is at least 0 and below steps, got {warmup} and {steps}: change either")

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            done = min((step - warmup) / (steps - warmup), 1.0)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

        super().__init__(optimizer, factor)
