"""Intervals over clips against tables of Student's distribution."""

from __future__ import annotations

import math

import pytest

from flashvsr.evaluate import half_width, student_quantile

# two-sided 95 %, from printed tables
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 29: 2.045, 39: 2.023, 100: 1.984}


@pytest.mark.parametrize(("freedom", "quantile"), TABLE.items())
def test_quantiles_are_those_of_printed_tables(freedom, quantile):
    assert student_quantile(freedom) == pytest.approx(quantile, abs=6e-4)


def test_other_confidences_are_other_quantiles():
    assert student_quantile(1, 0.5) == pytest.approx(1)  # the quartiles of a Cauchy distribution
    assert student_quantile(2, 0.99) == pytest.approx(9.925, abs=6e-4)
    assert student_quantile(7, 0.90) == pytest.approx(1.895, abs=6e-4)


def test_an_interval_by_hand():
    values = [1.0, 2.0, 3.0]  # standard deviation 1
    assert half_width(values) == pytest.approx(4.30265 / math.sqrt(3), abs=1e-5)
    assert half_width([5.0, 5.0]) == 0


def test_one_clip_and_infinite_figures_have_no_interval():
    assert half_width([30.0]) is None and half_width([30.0, math.inf]) is None and half_width([]) is None


def test_what_is_out_of_range_is_refused():
    with pytest.raises(ValueError, match="freedom is at least 1"):
        student_quantile(0)
    with pytest.raises(ValueError, match="confidence between 0 and 1"):
        student_quantile(3, 1.0)
