import random
import re

import pytest

from flashvsr.curate.report.histogram import Axis, bin_counts, choose_axis, histogram, quantile

RNG = random.Random(0)
DISTRIBUTIONS = {
    "bell": [RNG.gauss(50, 9) for _ in range(500)],
    "long tail": [RNG.lognormvariate(0, 2) for _ in range(500)],
    "around zero": [RNG.gauss(0, 1) for _ in range(500)],
    "one value": [3.0],
    "the same value": [480.0] * 20,
    "zeros": [0.0] * 20,
    "an outlier": [1.0 + number / 100 for number in range(400)] + [1e9],
    "tiny": [1e-9, 2e-9, 3e-9],
    "negative": [-5.0, -4.0, -1.0],
    "zeros and more": [0.0] * 50 + [10.0**power for power in range(6)],
}
EVERY = pytest.mark.parametrize("values", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)


@EVERY
@pytest.mark.parametrize("limits", [[], [0.5], [4.0, 96.0], [1e12], [-1e12]])
def test_every_value_is_in_one_bar(values, limits):
    axis = choose_axis(values, limits)
    assert sum(bin_counts(values, axis)) == len(values)
    assert axis.low < axis.high
    assert all(0 <= axis.place(value) <= 1 for value in values)


@EVERY
def test_an_axis_has_a_few_round_ticks_inside(values):
    axis = choose_axis(values, [])
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in ticks)


@pytest.mark.parametrize("name", ["bell", "long tail"])
def test_a_limit_separates_the_bars_beyond_it(name):
    values = sorted(DISTRIBUTIONS[name])
    for limit in (values[100], values[250], (values[400] + values[401]) / 2):
        axis = choose_axis(values, [limit])
        assert axis.logarithmic == (name == "long tail")
        counts = bin_counts(values, axis)
        edge = axis.place(limit) * len(counts)
        assert edge == pytest.approx(round(edge), abs=1e-6)
        assert sum(counts[: round(edge)]) == sum(value < limit for value in values)


def test_an_outlier_does_not_squeeze_the_rest_into_one_bar():
    values = DISTRIBUTIONS["an outlier"]
    counts = bin_counts(values, choose_axis(values, []))
    assert sum(count > 0 for count in counts) > 30


def test_a_far_limit_does_not_either_and_its_line_points_there():
    values = DISTRIBUTIONS["bell"]
    assert choose_axis(values, [1e6]) == choose_axis(values, [])
    drawing = histogram({"kept": values}, [("max", 1e6)], label="")
    assert re.search(r">max 1\.0e\+06 →</text>", drawing)


def test_a_long_tail_gets_a_logarithmic_axis_and_a_wide_range_alone_does_not():
    assert choose_axis(DISTRIBUTIONS["long tail"], []).logarithmic
    assert not choose_axis([0.1 + number for number in range(100)], []).logarithmic
    assert not choose_axis(DISTRIBUTIONS["around zero"], []).logarithmic


def test_stacked_bars_are_as_high_as_their_sum():
    drawing = histogram({"kept": [1.0, 1.0, 2.0], "cut": [1.0, 1.0]}, [], label="")
    bars = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)" class="(\w+)">', drawing)
    left = [(float(y), float(height), kind) for x, y, height, kind in bars if float(x) < 200]
    (kept_top, kept_height, _), (cut_top, cut_height, _) = sorted(left, key=lambda bar: bar[2], reverse=True)
    assert kept_height == pytest.approx(cut_height, abs=0.02)
    assert cut_top + cut_height == pytest.approx(kept_top, abs=0.02)
    lone = next(float(height) for x, _, height, _ in bars if float(x) > 200)
    assert lone == pytest.approx(kept_height / 2, abs=0.02)


def test_a_place_on_a_logarithmic_axis_follows_ratios():
    axis = Axis(0.01, 100.0, logarithmic=True)
    assert axis.place(1.0) == pytest.approx(0.5)
    assert axis.place(-3.0) == 0
    assert axis.ticks() == pytest.approx([0.01, 0.1, 1, 10, 100])


def test_quantiles_are_values_that_occur():
    values = [1.0, 2.0, 3.0, 4.0]
    assert [quantile(values, part) for part in (0, 0.05, 0.5, 0.95, 1)] == [1.0, 1.0, 3.0, 4.0, 4.0]
