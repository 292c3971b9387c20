"""Random numbers of a clip: drawn once, then drifting from frame to frame."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


class RandomWalk:
    """A number that is uniform in its range at first and then takes a small uniform step per frame, inside the range.

    Args:
        rng: Drawn from now and at every step.
        bounds: Lowest and highest value.
        step: Largest change per frame.
        start: The first value; None draws it.
    """

    def __init__(
        self, rng: np.random.Generator, bounds: tuple[float, float], step: float, *, start: float | None = None
    ) -> None:
        self._rng, self._bounds, self._step = rng, bounds, step
        self._value = float(rng.uniform(*bounds)) if start is None else start

    def __next__(self) -> float:
        """The value for the next frame; the first call gives the first value."""
        value = self._value
        moved = value + float(self._rng.uniform(-self._step, self._step))
        self._value = min(max(moved, self._bounds[0]), self._bounds[1])
        return value


def pick(rng: np.random.Generator, table: Mapping[str, float]) -> str:
    """One of the names, with the probabilities of the table."""
    names = list(table)
    weights = np.array([table[name] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]
