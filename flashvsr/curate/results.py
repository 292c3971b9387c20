"""What a run leaves besides its shards: records for the report, and the manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from flashvsr.curate.journal import CurateJournal
from flashvsr.curate.plan import ShardClip
from flashvsr.curate.records import REPORT, write_records, write_text
from flashvsr.curate.rows import Row
from flashvsr.curate.rules import UNITS, CurateRules, Limit


def reject_unwritten(rows: list[Row], clips: list[ShardClip], entries: list[dict[str, Any]]) -> list[Row]:
    """The rows, those rejected whose clip could not be written."""
    reasons = {failure["key"]: failure["reason"] for entry in entries for failure in entry["failed"]}
    lost = {(clip.row.name, part): reasons[clip.key] for clip in clips if clip.key in reasons for part in clip.parts}
    return [
        row.rejected("write", lost[row.name, row.part]) if (row.name, row.part) in lost and row.stage is None else row
        for row in rows
    ]


def raw_totals(rows: Sequence[Row]) -> tuple[int, float]:
    """Photographs among the sources, and hours of video."""
    photos = sum(row.kind == "photo" for row in rows)
    spans: dict[str, tuple[float, float]] = {}
    for row in rows:
        start, end = spans.get(row.name, row.span)
        spans[row.name] = min(start, row.span[0]), max(end, row.span[1])
    return photos, sum(end - start for start, end in spans.values()) / 3600


def write_results(
    out: Path,
    rows: Sequence[Row],
    clips: Sequence[ShardClip],
    entries: Sequence[dict[str, Any]],
    steps: list[dict[str, Any]],
    rules: CurateRules,
    journal: CurateJournal,
) -> None:
    """Write the records that the report is made of."""
    shard_of = {sample["key"]: entry["name"] for entry in entries for sample in entry["samples"]}
    places = {(clip.row.name, part): (clip.split, shard_of.get(clip.key)) for clip in clips for part in clip.parts}
    scores = {score for row in rows for score in row.scores}
    limits = {score: rules.thresholds.get(score, Limit()) for score in UNITS if score in scores | set(rules.thresholds)}
    shards = [
        {"name": entry["name"], "bytes": entry["bytes"], "samples": len(entry["samples"])}
        | {"seconds": _seconds(entry), "split": entry["name"].partition("/")[0]}
        for entry in entries
        if entry["samples"]
    ]
    run = {
        "recipe": rules.name,
        "thresholds": {score: {"min": one.min, "max": one.max, "unit": UNITS[score]} for score, one in limits.items()},
        "funnel": steps,
        "shards": shards,
    }
    records = [_record(row, places.get((row.name, row.part), (None, None)), journal) for row in rows]
    write_records(out / REPORT, records, run)


def _record(row: Row, place: tuple[str | None, str | None], journal: CurateJournal) -> dict[str, Any]:
    """One line of ``records.jsonl``."""
    kept = row.stage is None
    return {
        "source": row.name,
        "kind": row.kind,
        "start": row.span[0],
        "end": row.span[1],
        "size": list(row.size),
        "fps": float(f"{float(Fraction(row.fps)):.6g}") if row.fps is not None else None,
        "kept": kept,
        "stage": row.stage,
        "reason": row.reason,
        "scores": row.scores,
        "thumbnail": journal.thumbnail_of(row) if row.sha256 else None,
        "split": place[0] if kept else None,
        "shard": place[1] if kept else None,
    }


def write_manifest(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    """One JSON a line: every shard (``"type": "shard"``), then every sample (``"type": "sample"``) in their order."""
    written = [entry for entry in entries if entry["samples"]]
    shards = [
        {"type": "shard", "name": entry["name"], "sha256": entry["sha256"], "bytes": entry["bytes"]}
        | {"split": entry["name"].partition("/")[0], "samples": len(entry["samples"]), "seconds": _seconds(entry)}
        for entry in written
    ]
    samples = [{"type": "sample", "shard": entry["name"]} | sample for entry in written for sample in entry["samples"]]
    write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in [*shards, *samples]))


def _seconds(entry: dict[str, Any]) -> float:
    return round(sum(sample["end"] - sample["start"] for sample in entry["samples"]), 3)


def show_funnel(steps: Sequence[dict[str, Any]]) -> str:
    """The funnel as lines of text."""
    lines = [f"{'stage':<12}{'videos':>9}{'hours':>10}{'photos':>8}"]
    lines += [f"{step['stage']:<12}{step['count']:>9}{step['hours']:>10.4f}{step['photos']:>8}" for step in steps]
    return "\n".join(lines)


def show_reasons(rows: Sequence[Row], most: int = 5) -> str:
    """The commonest reasons to reject, a line each."""
    kinds = Counter(f"{row.stage}: {_without_numbers(row.reason or '')}" for row in rows if row.stage is not None)
    return "\n".join(f"{count} x {kind}" for kind, count in kinds.most_common(most))


def _without_numbers(reason: str) -> str:
    """``"motion 0.1 < 0.5 %/s"`` without the 0.1, and nothing after a colon: what many rows share."""
    words = reason.partition(":")[0].split()
    return " ".join(words[:1] + words[2:] if len(words) > 3 and words[2] in ("<", ">") else words)
