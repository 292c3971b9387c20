"""Histograms as SVG: bars stacked by fate, and the limits that decided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flashvsr.curate.report.markup import Markup, count, figure, join, tag

_WIDTH, _HEIGHT = 460, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 26, 30
_BINS = 40


@dataclass(frozen=True)
class Axis:
    """From a value to a place between 0 and 1; values beyond the ends lie at the ends.

    Attributes:
        low: Left end.
        high: Right end, larger.
        logarithmic: Whether equal ratios are equally far apart.
    """

    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Between 0 and 1."""
        low, high = self._scale(self.low), self._scale(self.high)
        value = min(max(value, self.low), self.high)
        return min(max((self._scale(value) - low) / (high - low), 0.0), 1.0)

    def aligned(self, value: float, bins: int) -> Axis:
        """The same, longer by at most a bin so that a value lies between two bins."""
        low, high, value = map(self._scale, (self.low, self.high, value))
        width = (high - low) / (bins - 1)
        low = value - math.ceil((value - low) / width) * width
        high = low + bins * width
        return Axis(*((math.exp(low), math.exp(high)) if self.logarithmic else (low, high)), self.logarithmic)

    def ticks(self) -> list[float]:
        """A few round values between the ends."""
        if self.logarithmic:
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            chosen = [10.0**power for power in decades][:: max(1, len(decades) // 5)]
            if len(chosen) > 1:
                return chosen
            steps = [factor * 10.0**power for power in range(-12, 13) for factor in (1, 2, 5)]
            return [step for step in steps if self.low <= step <= self.high]
        width = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(width))
        step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= width)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _scale(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


def choose_axis(values: Sequence[float], limits: Sequence[float]) -> Axis:
    """An axis for values of any distribution.

    It spans all but the outermost hundredth of the values, and the limits unless they are far away (several times that
    span): a single outlier, or a limit that nothing comes near, must not squeeze the rest into one bar. It is
    logarithmic where positive values span more than a factor of 100 and most would crowd at the left end.

    Args:
        values: At least one; finite.
        limits: Finite.
    """
    ordered = sorted(values)
    low, high = ordered[int(0.005 * (len(ordered) - 1))], ordered[math.ceil(0.995 * (len(ordered) - 1))]
    span = high - low or abs(high) or 1.0
    near = [limit for limit in limits if low - 3 * span <= limit <= high + 3 * span]
    low, high = min([low, *near]), max([high, *near])
    if low > 0 and high / low > 100 and ordered[len(ordered) // 2] - low < (high - low) / 8:
        axis = Axis(low / 1.1, high * 1.1, logarithmic=True)
    else:
        margin = 0.03 * (high - low) or 0.5 * abs(high) or 1.0
        axis = Axis(0.0 if 0 <= low < margin else low - margin, high + margin)
    inside = [limit for limit in near if axis.low < limit < axis.high]
    return axis.aligned(inside[0], _BINS) if inside else axis


def bin_counts(values: Sequence[float], axis: Axis, bins: int = _BINS) -> list[int]:
    """How many values lie in each of equally wide parts of an axis; those beyond its ends count in the outer ones."""
    counts = [0] * bins
    for value in values:
        counts[min(int(axis.place(value) * bins + 1e-9), bins - 1)] += 1  # what lies on an edge counts above it
    return counts


def histogram(values: Mapping[str, Sequence[float]], limits: Sequence[tuple[str, float]], *, label: str) -> Markup:
    """A drawing of how values are distributed.

    Args:
        values: By fate, from the bottom of the stack to the top; the names become classes of the bars. At least one
            value in all.
        limits: Name and value of each line to draw.
        label: What screen readers say.
    """
    axis = choose_axis([value for part in values.values() for value in part], [value for _, value in limits])
    counts = {fate: bin_counts(part, axis) for fate, part in values.items()}
    highest = max(map(sum, zip(*counts.values(), strict=True)))
    drawing = join([_grid(axis, highest), _bars(counts, highest), *_lines(limits, axis)])
    return tag("svg", tag("title", label), drawing, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", class_="histogram")


def _across(place: float) -> float:
    return round(_LEFT + place * (_WIDTH - _LEFT - _RIGHT), 2)


def _up(part: float) -> float:
    return round(_HEIGHT - _BOTTOM - part * (_HEIGHT - _TOP - _BOTTOM), 2)


def _text(text: str, x: float, y: float, anchor: str, kind: str | None = None) -> Markup:
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=kind)


def _grid(axis: Axis, highest: int) -> Markup:
    bottom = _up(0)
    parts = [
        tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="rule" if y < bottom else "base")
        for y in (_up(1), bottom)
    ]
    parts += [_text(count(highest), _LEFT - 6, _up(1) + 4, "end"), _text("0", _LEFT - 6, bottom + 4, "end")]
    for tick in axis.ticks():
        x = _across(axis.place(tick))
        parts += [
            tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="base"),
            _text(figure(tick), x, bottom + 17, "middle"),
        ]
    return join(parts)


def _bars(counts: Mapping[str, Sequence[int]], highest: int) -> Markup:
    bins = len(next(iter(counts.values())))
    parts, filled = [], [0] * bins
    for fate, numbers in counts.items():
        for place, number in enumerate(numbers):
            if not number:
                continue
            top, bottom = _up((filled[place] + number) / highest), _up(filled[place] / highest)
            filled[place] += number
            left, right = _across(place / bins) + 0.5, _across((place + 1) / bins) - 0.5
            width, height = round(right - left, 2), round(bottom - top, 2)
            parts.append(tag("rect", x=left, y=top, width=width, height=height, class_=fate))
    return join(parts)


def _lines(limits: Sequence[tuple[str, float]], axis: Axis) -> list[Markup]:
    parts = []
    for name, limit in limits:
        x = _across(axis.place(limit))
        beyond = " →" if limit > axis.high else " ←" if limit < axis.low else ""
        shift, side = (-5, "end") if x > _WIDTH / 2 else (5, "start")
        parts += [
            tag("line", x1=x, x2=x, y1=_TOP - 8, y2=_up(0), class_="limit"),
            _text(f"{name} {figure(limit)}{beyond}", x + shift, 14, side, "limit"),
        ]
    return parts


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which that part of them lies; of sorted values, at least one."""
    return values[min(int(part * len(values)), len(values) - 1)]
