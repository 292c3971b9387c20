"""Tables of an evaluation: means over clips with the gain over bicubic, and every single figure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from flashvsr.evaluate.columns import DEFINITIONS, TITLES, columns_of
from flashvsr.evaluate.metrics import GROUND_TRUTH
from flashvsr.evaluate.run import ClipScores, Results


def mean_figures(rows: Sequence[ClipScores]) -> dict[str, dict[str, float]]:
    """Means over clips and seeds.

    Args:
        rows: Of one evaluation.

    Returns:
        By method, in the order of the rows, and by column. A clip without a figure (a photograph has no warping error)
        does not count for that column.
    """
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for column, value in row.figures.items():
            values.setdefault(row.method, {}).setdefault(column, []).append(value)
    return {
        method: {column: math.fsum(found) / len(found) for column, found in columns.items()}
        for method, columns in values.items()
    }


def mean_table(results: Results, metrics: Sequence[str], *, baseline: str = "bicubic") -> str:
    """The table of means in Markdown: a row for each method, in brackets what it gains over the baseline.

    Args:
        results: Of one evaluation.
        metrics: Asked for; those that could not be computed have empty columns, with the reason below.
        baseline: Method to compare with; without it among the rows there are no brackets.

    Returns:
        Lines, aligned for reading as they are.
    """
    means, columns = mean_figures(results.rows), columns_of(metrics)
    lines = [["method", *(TITLES[column][0] for column in columns)]]
    for method, figures in means.items():
        cells = []
        for column in columns:
            base = means.get(baseline, {}).get(column) if method not in (baseline, GROUND_TRUTH) else None
            cells.append(_cell(figures.get(column), base, TITLES[column][1]))
        lines.append([method, *cells])
    text = aligned(lines)
    notes = missing_notes(results)
    notes += [words for metric, words in DEFINITIONS.items() if metric in metrics]
    return "\n".join([text, "", *(f"- {note}" for note in notes)]) + "\n"


def missing_notes(results: Results) -> list[str]:
    """What has no figure, and why: for all clips, and for some."""
    notes = [f"{name} is missing: {reason}" for name, reason in results.missing.items()]
    return notes + [f"no {what} ({_listed(names)})" for what, names in results.skipped.items()]


def clip_table(results: Results, metrics: Sequence[str]) -> str:
    """The table of every clip and seed in Markdown."""
    columns = columns_of(metrics)
    lines = [["clip", "seed", "method", *(TITLES[column][0] for column in columns)]]
    for row in results.rows:
        cells = [_cell(row.figures.get(column), None, TITLES[column][1]) for column in columns]
        lines.append([row.clip, str(row.seed), row.method, *cells])
    return aligned(lines) + "\n"


def to_csv(results: Results, metrics: Sequence[str]) -> str:
    """Every figure, unrounded: a line for each clip, seed and method; what is missing is empty."""
    columns = columns_of(metrics)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["clip", "seed", "method", *columns])
    for row in results.rows:
        writer.writerow([row.clip, row.seed, row.method, *(row.figures.get(column, "") for column in columns)])
    return text.getvalue()


def to_json(results: Results, settings: Mapping[str, Any]) -> str:
    """Settings, means, every figure and what is missing; infinite PSNR is the string ``"inf"``."""
    said = {
        "settings": dict(settings),
        "missing": results.missing,
        "skipped": results.skipped,
        "means": {method: _plain(figures) for method, figures in mean_figures(results.rows).items()},
        "rows": [
            {"clip": row.clip, "seed": row.seed, "method": row.method, **_plain(row.figures)} for row in results.rows
        ],
    }
    return json.dumps(said, indent=1, allow_nan=False) + "\n"


def _listed(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique) if len(unique) <= 3 else f"{unique[0]} and {len(unique) - 1} others"


def _plain(figures: Mapping[str, float]) -> dict[str, float | str]:
    return {column: value if math.isfinite(value) else str(value) for column, value in figures.items()}


def _cell(value: float | None, base: float | None, decimals: int) -> str:
    if value is None:
        return "-"
    text = f"{value:.{decimals}f}"
    if base is None or not (math.isfinite(value) and math.isfinite(base)):
        return text
    return f"{text} ({value - base:+.{decimals}f})"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Args:
        lines: Cells, the titles first; columns called clip, metric, method and seed hold names, the others figures.

    Returns:
        The table, the figures of a column flush right.
    """
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    names = sum(title in ("clip", "method", "metric") for title in lines[0]) + ("seed" in lines[0])
    rows = []
    for line in lines:
        cells = [
            cell.ljust(width) if index < names else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        rows.append("| " + " | ".join(cells) + " |")
    rule = ["-" * width if index < names else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    return "\n".join([rows[0], "| " + " | ".join(rule) + " |", *rows[1:]])
