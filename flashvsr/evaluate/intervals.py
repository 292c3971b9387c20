"""How far a mean over clips can be trusted: Student's t-interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flashvsr.evaluate.metrics import GROUND_TRUTH
from flashvsr.evaluate.run import ClipScores

BASELINE = "bicubic"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """What is known about a figure.

    Attributes:
        mean: Over clips; a clip's figure is its mean over seeds.
        half: Half of the t-interval over clips; None for one clip, or an infinite figure.
        clips: How many have the figure.
    """

    mean: float
    half: float | None
    clips: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """From one value for each clip, at least one."""
        return cls(math.fsum(values) / len(values), half_width(values), len(values))


def estimates(rows: Sequence[ClipScores]) -> dict[str, dict[str, Estimate]]:
    """Every figure with its interval.

    Args:
        rows: Of one evaluation.

    Returns:
        By method, in the order of the rows, and column.
    """
    return {
        method: {column: Estimate.of(list(clips.values())) for column, clips in columns.items()}
        for method, columns in _by_clip(rows).items()
    }


def gains(
    rows: Sequence[ClipScores], baseline: str = BASELINE, compared_with: Mapping[str, str] | None = None
) -> dict[str, dict[str, Estimate]]:
    """What every method gains over the baseline, clip by clip, so that the spread between clips drops out.

    Args:
        rows: Of one evaluation.
        baseline: A method; without it among the rows there are no gains.
        compared_with: By method, another that takes the baseline's place: the model of an ablation.

    Returns:
        By method and column; nothing for the baseline, the ground truth, and figures that are infinite.
    """
    figures = _by_clip(rows)
    found: dict[str, dict[str, Estimate]] = {}
    for method, columns in figures.items():
        if method in (baseline, GROUND_TRUTH):
            continue
        base = figures.get((compared_with or {}).get(method, baseline), {})
        for column, clips in columns.items():
            shared = [clip for clip in clips if clip in base.get(column, {})]
            differences = [clips[clip] - base[column][clip] for clip in shared]
            if differences and all(map(math.isfinite, differences)):
                found.setdefault(method, {})[column] = Estimate.of(differences)
    return found


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


def _by_clip(rows: Sequence[ClipScores]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean over seeds by method, column and clip."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        columns = values.setdefault(row.method, {})
        for column, value in row.figures.items():
            columns.setdefault(column, {}).setdefault(row.clip, []).append(value)
    return {
        method: {
            column: {clip: math.fsum(found) / len(found) for clip, found in clips.items()}
            for column, clips in columns.items()
        }
        for method, columns in values.items()
    }
