"""How far a mean over clips can be trusted: Student's t-interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

CONFIDENCE = 0.95


def half_width(values: Sequence[float], confidence: float = CONFIDENCE) -> float | None:
    """Half the width of the t-interval around the mean.

    It says how much the mean would move with other clips of the same kind, when figures of clips are about normally
    distributed; not how exact a single figure is.

    Args:
        values: One for each clip.
        confidence: Between 0 and 1.

    Returns:
        The half width; None for fewer than two values, or when one is infinite.

    Raises:
        ValueError: If `confidence` is not between 0 and 1.
    """
    count = len(values)
    if count < 2 or not all(map(math.isfinite, values)):
        return None
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return student_quantile(count - 1, confidence) * math.sqrt(variance / count)


def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t with ``P(-t < T < t) = confidence`` for Student's distribution.

    Args:
        freedom: Degrees of freedom, at least 1.
        confidence: Between 0 and 1.

    Returns:
        The quantile, to about 10 digits.

    Raises:
        ValueError: If an argument is out of range.
    """
    if freedom < 1 or not 0 < confidence < 1:
        raise ValueError(f"freedom is at least 1 and confidence between 0 and 1; got {freedom} and {confidence}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _inside(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def _inside(angle: float, freedom: int) -> float:
    """P(-t < T < t) for ``t = sqrt(freedom) tan(angle)``.

    Reference:
        Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total
