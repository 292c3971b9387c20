"""The records of a curation run that never was: for tests of the report, which reads nothing else."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

from PIL import Image

from flashvsr.curate.records import REPORT, THUMBNAILS, write_records

LIMITS = {
    "blockiness": {"min": None, "max": 1.6, "unit": "ratio"},
    "exposure": {"min": 4.0, "max": 96.0, "unit": "%"},
    "motion": {"min": 0.5, "max": None, "unit": "%/s"},
    "musiq": {"min": None, "max": None, "unit": "0 to 100"},
    "sharpness": {"min": 1.5, "max": None, "unit": "%"},
}
SCORES = {
    "blockiness": lambda rng: rng.gauss(1.3, 0.2),
    "exposure": lambda rng: rng.uniform(0, 100),
    "motion": lambda rng: rng.lognormvariate(0.5, 1.4),
    "musiq": lambda rng: rng.gauss(55, 9),
    "sharpness": lambda rng: rng.lognormvariate(1.2, 0.7),
}


def record(source: str, **changes: Any) -> dict[str, Any]:
    """A kept segment, but for the changes."""
    return {
        "source": source,
        "kind": "video",
        "start": 0.0,
        "end": 8.0,
        "size": [1080, 1920],
        "fps": 25.0,
        "kept": True,
        "stage": None,
        "reason": None,
        "scores": {},
        "thumbnail": None,
        "split": "train",
        "shard": "train/shard-00000.tar",
    } | changes


def rejected(source: str, stage: str, reason: str, **changes: Any) -> dict[str, Any]:
    """A rejected segment."""
    return record(source, kept=False, stage=stage, reason=reason, split=None, shard=None, **changes)


def photo(source: str, **changes: Any) -> dict[str, Any]:
    """A kept photograph, but for the changes."""
    return record(source) | {"kind": "photo", "end": 0.0, "size": [1365, 2048], "fps": None} | changes


def write_run(out: Path, records: list[dict[str, Any]], **changes: Any) -> Path:
    """Write the records, and a summary that agrees with them; changes replace parts of the summary."""
    kept = [one for one in records if one["kept"]]

    def left(stage: str, ones: list[dict[str, Any]]) -> dict[str, Any]:
        clips = [one for one in ones if one["kind"] == "video"]
        hours = sum(one["end"] - one["start"] for one in clips) / 3600
        return {"stage": stage, "count": len(clips), "hours": hours, "photos": len(ones) - len(clips)}

    shards = []
    for name in sorted({one["shard"] for one in kept}):
        inside = [one for one in kept if one["shard"] == name]
        seconds = sum(one["end"] - one["start"] for one in inside)
        said = {"name": name, "bytes": 1_000_000 * len(inside), "samples": len(inside), "seconds": seconds}
        shards.append(said | {"split": name.split("/")[0]})
    funnel, rest = [left("raw", records)], records
    for stage in ("probe", "scenes", "quality", "motion", "duplicates", "write"):
        rest = [one for one in rest if one["stage"] != stage]
        funnel.append(left(stage, rest))
    summary = {"recipe": "small", "thresholds": LIMITS, "funnel": [*funnel, left("kept", kept)], "shards": shards}
    write_records(out / REPORT, records, summary | changes)
    return out


def add_thumbnail(out: Path, name: str, color: tuple[int, int, int], size: tuple[int, int] = (160, 90)) -> str:
    """Write a picture; what a record says of it."""
    folder = out / REPORT / THUMBNAILS
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG")
    (folder / name).write_bytes(buffer.getvalue())
    return f"{THUMBNAILS}/{name}"


def random_run(out: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A run of many segments and photographs with every kind of fate and a picture each; its records."""
    rng = random.Random(seed)
    records = []
    for number in range(count):
        scores = {name: round(draw(rng), 4) for name, draw in SCORES.items()}
        color = tuple(rng.randrange(256) for _ in range(3))
        picture = add_thumbnail(out, f"{number:06d}.jpg", color, (160, 90) if number % 7 else (90, 160))  # type: ignore[arg-type]
        said = {"scores": scores, "thumbnail": picture, "start": 8.0 * (number % 5), "end": 8.0 * (number % 5) + 8}
        name = f"footage/reel_{number // 5:04d}.mp4"
        kind = photo if number % 9 == 0 else record
        why = _why_not(scores) if number % 31 else ("probe", f"damaged: {name} ends early at byte {number}")
        if why:
            stage, reason = why
            lost = {"kept": False, "stage": stage, "reason": reason, "split": None, "shard": None}
            if stage == "probe":
                lost |= {"thumbnail": None, "scores": {}, "size": [0, 0], "start": 0.0}
            records.append(kind(name, **said | lost | ({"start": 0.0, "end": 0.0} if kind is photo else {})))
        else:
            split = "val" if number // 5 % 10 == 0 else "train"
            said |= {"split": split, "shard": f"{split}/shard-{number // 40:05d}.tar"}
            records.append(kind(name, **said | ({"start": 0.0, "end": 0.0} if kind is photo else {})))
    return records


def _why_not(scores: dict[str, float]) -> tuple[str, str] | None:
    for name, limit in LIMITS.items():
        stage = "motion" if name == "motion" else "quality"
        if limit["min"] is not None and scores[name] < limit["min"]:
            return stage, f"{name} {scores[name]:.4g} < {limit['min']:g} {limit['unit']}"
        if limit["max"] is not None and scores[name] > limit["max"]:
            return stage, f"{name} {scores[name]:.4g} > {limit['max']:g} {limit['unit']}"
    return None
