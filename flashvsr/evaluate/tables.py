"""Tables of an evaluation: means over clips with the gain over bicubic, and every single figure."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flashvsr.evaluate.columns import DEFINITIONS, TITLES, columns_of
from flashvsr.evaluate.intervals import CONFIDENCE, Estimate, estimates, gains
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
    """The table of means in Markdown: a row for each method, in brackets what it gains over the baseline, clip by clip.

    A gain has half of its t-interval over clips behind it. An ablation's is over its model.

    Args:
        results: Of one evaluation.
        metrics: Asked for; those that could not be computed have empty columns, with the reason below.
        baseline: Method to compare with; without it among the rows there are no brackets.

    Returns:
        Lines, aligned for reading as they are.
    """
    figures, columns = estimates(results.rows), columns_of(metrics)
    gained = gains(results.rows, baseline, results.compared_with)
    lines = [["method", *(TITLES[column][0] for column in columns)]]
    for method, known in figures.items():
        over = gained.get(method, {})
        cells = [_cell(known.get(column), over.get(column), TITLES[column][1]) for column in columns]
        lines.append([method, *cells])
    text = aligned(lines)
    notes = [*([reading(results)] if gained else []), *missing_notes(results)]
    notes += [words for metric, words in DEFINITIONS.items() if metric in metrics]
    return "\n".join([text, "", *(f"- {note}" for note in notes)]) + "\n"


def reading(results: Results) -> str:
    """How to read the cells of a table."""
    clips = len({row.clip for row in results.rows})
    gain = "the gain over bicubic"
    if results.compared_with:
        gain += ", or of an ablation over its model"
    if clips == 1:
        return f"Cells: the figure of the one clip, which has no interval; in brackets {gain}."
    return (
        f"Cells: mean over clips ± half of Student's {CONFIDENCE:.0%} t-interval over clips ({clips} clips; seeds of a "
        f"clip are averaged first); in brackets {gain}, clip by clip, with its own interval."
    )


def missing_notes(results: Results) -> list[str]:
    """What has no figure, and why: for all clips, and for some."""
    notes = [f"{name} is missing: {reason}" for name, reason in results.missing.items()]
    notes += results.notes
    return notes + [f"no {what} ({_listed(names)})" for what, names in results.skipped.items()]


def clip_table(results: Results, metrics: Sequence[str]) -> str:
    """The table of every clip and seed in Markdown."""
    columns = columns_of(metrics)
    lines = [["clip", "seed", "method", *(TITLES[column][0] for column in columns)]]
    for row in results.rows:
        cells = [_plain_cell(row.figures.get(column), TITLES[column][1]) for column in columns]
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
    """Settings, means, their intervals and gains, every figure and what is missing; infinite PSNR is ``"inf"``.

    ``gains`` are paired by clip, over bicubic or what ``compared_with`` names. ``half`` and ``intervals`` are halves of
    95 % t-intervals over clips, null where there is none.
    """
    gained = gains(results.rows, compared_with=results.compared_with)
    said = {
        "settings": dict(settings),
        "missing": results.missing,
        "skipped": results.skipped,
        "notes": results.notes,
        "compared_with": results.compared_with,
        "intervals": {
            method: {column: figure.half for column, figure in figures.items()}
            for method, figures in estimates(results.rows).items()
        },
        "gains": {
            method: {column: asdict(gain) for column, gain in columns.items()} for method, columns in gained.items()
        },
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


def _cell(figure: Estimate | None, gain: Estimate | None, decimals: int) -> str:
    text = _plain_cell(None if figure is None else figure.mean, decimals)
    if gain is None:
        return text
    return f"{text} ({gain.mean:+.{decimals}f}{'' if gain.half is None else f' ±{gain.half:.{decimals}f}'})"


def _plain_cell(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


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
