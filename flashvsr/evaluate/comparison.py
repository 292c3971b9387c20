"""A test set's table: what the paper reports beside what was measured, with intervals over clips."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from flashvsr.evaluate.columns import DEFINITIONS, LOWER_IS_BETTER, TITLES, columns_of, metric_of
from flashvsr.evaluate.intervals import Estimate, estimates, gains
from flashvsr.evaluate.paper import cautions, published
from flashvsr.evaluate.run import Results
from flashvsr.evaluate.suites import FoundSuite
from flashvsr.evaluate.tables import aligned, missing_notes, reading

MISSING = "missing"


def suite_table(results: Results, metrics: Sequence[str], found: FoundSuite, setting: str) -> str:
    """The table of a test set in Markdown: a row for each figure, a column for each model.

    Args:
        results: Of one evaluation.
        metrics: Asked for; those that could not be computed keep their rows, with the reason below.
        found: The test set.
        setting: How it was run, in a sentence.

    Returns:
        Lines, aligned for reading as they are.
    """
    ours, paper = estimates(results.rows), published(found.name)
    gained = gains(results.rows, compared_with=results.compared_with)
    lines = [["metric", *paper, *ours]]
    for column in columns_of(metrics):
        title, decimals = TITLES[column]
        cells = [f"{title} {'↓' if column in LOWER_IS_BETTER else '↑'}"]
        cells += [_plain(figures.get(column), decimals) for figures in paper.values()]
        for method, figures in ours.items():
            if metric_of(column) in results.missing:
                cells.append(MISSING)
            else:
                cells.append(_cell(figures.get(column), gained.get(method, {}).get(column), decimals))
        lines.append(cells)
    notes = [f"{found.suite.title}: {setting}", reading(results), *missing_notes(results)]
    used = {metric for metric in metrics if metric not in results.missing}
    notes += [words for metric, words in DEFINITIONS.items() if {metric, _SHARED.get(metric)} & used]
    notes += [*found.cautions, *cautions(found.name)]
    return "\n".join([aligned(lines), "", *(f"- {note}" for note in notes)]) + "\n"


def suite_csv(results: Results, metrics: Sequence[str], found: FoundSuite) -> str:
    """The same figures, unrounded: a line for each model and figure, the paper's among them.

    Args:
        results: Of one evaluation.
        metrics: Asked for; what is missing has a line with the reason.
        found: The test set.

    Returns:
        Lines under ``column,method,source,mean,half_width,gain,gain_half_width,clips,missing``; a ``half_width`` is
        half of the 95 % t-interval over clips, a ``gain`` is over bicubic, or over the model of an ablation.
    """
    ours, paper = estimates(results.rows), published(found.name)
    gained = gains(results.rows, compared_with=results.compared_with)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["column", "method", "source", "mean", "half_width", "gain", "gain_half_width", "clips", "missing"])
    for column in columns_of(metrics):
        for model, published_figures in paper.items():
            if column in published_figures:
                writer.writerow([column, model, "paper", published_figures[column], "", "", "", "", ""])
        reason = results.missing.get(metric_of(column), "")
        for method, figures in ours.items():
            figure, gain = figures.get(column), gained.get(method, {}).get(column)
            known = [figure.mean, _blank(figure.half)] if figure else ["", ""]
            more = [gain.mean, _blank(gain.half)] if gain else ["", ""]
            writer.writerow([column, method, "measured", *known, *more, figure.clips if figure else 0, reason])
    return text.getvalue()


_SHARED = {"psnr": "ssim"}  # one sentence defines both


def _cell(figure: Estimate | None, gain: Estimate | None, decimals: int) -> str:
    if figure is None:
        return "-"
    text = _plain(figure.mean, decimals) + _spread(figure.half, decimals)
    return text if gain is None else f"{text} ({gain.mean:+.{decimals}f}{_spread(gain.half, decimals)})"


def _spread(half: float | None, decimals: int) -> str:
    return "" if half is None else f" ±{half:.{decimals}f}"


def _plain(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _blank(value: float | None) -> float | str:
    return "" if value is None else value
