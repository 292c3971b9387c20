"""What a curation run writes about itself under ``OUT/report/``, and what the report page is made of.

``records.jsonl``: one JSON object a line, in the order of sources and times; one for every segment of a video, every
photograph, and every source that was rejected whole:

    {"source": "folder/clip.mp4",       name relative to the SOURCE that it was found in
     "kind": "video",                   "video" or "photo", by content; by ending where the content could not be read
     "start": 0.0, "end": 7.97,         seconds in the source; 0 and its duration (0 if unknown) for a source rejected
                                        whole; 0 and 0 for photographs
     "size": [1080, 1920],              rows, columns after rotation and cropping; [0, 0] if unknown
     "fps": 25.0,                       frames per second; null for photographs and if unknown
     "kept": true,
     "stage": null,                     of `STAGES`: the one that rejected it; null if kept
     "reason": null,                    a few words such as "motion 0.1 < 0.5 %/s"; null if kept
     "scores": {"motion": 3.2},         the scores that were computed, by the names of run.json's thresholds
     "thumbnail": "thumbnails/<id>.jpg",  JPEG of the middle frame, at most 160 pixels wide, below the same folder;
                                        null for sources that were rejected before frames were
                                        looked at
     "split": "train",                  "train" or "val"; null if rejected
     "shard": "train/shard-00000.tar"}  below OUT; null if rejected

Segments of one source that follow each other and are kept were merged into one clip if they have one ``shard`` and
touch (``end`` of one is ``start`` of the next); the manifest lists the clips.

``run.json``, one JSON object:

    {"recipe": "small",                 name of the recipe
     "thresholds": {"sharpness": {"min": 4.0, "max": null, "unit": "%"}, ...},   either may be null; every score that
                                        the recipe has computed is here, also one without limits
     "funnel": [{"stage": "raw", "count": 9, "hours": 0.01, "photos": 2},  ...],   from raw to kept, what is left
                                        after each of `STAGES`: segments (sources before they are cut), their hours,
                                        photographs; the first row is "raw", the last one "kept"
     "shards": [{"name": "train/shard-00000.tar", "bytes": 1234, "samples": 3, "seconds": 12.5, "split": "train"}]}

Nothing in these files depends on the time, the machine, or how many workers ran.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

STAGES = ("probe", "scenes", "quality", "motion", "duplicates", "write")
"""In their order; what each rejects is in the recipe."""

REPORT = "report"
RECORDS = "records.jsonl"
RUN = "run.json"
THUMBNAILS = "thumbnails"


def write_records(folder: Path, records: Iterable[dict[str, Any]], run: dict[str, Any]) -> None:
    """Write ``records.jsonl`` and ``run.json`` into a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / RECORDS, "".join(json.dumps(record, sort_keys=True) + "\n" for record in records))
    write_text(folder / RUN, json.dumps(run, sort_keys=True, indent=1) + "\n")


def read_records(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records and the run of a report folder."""
    return list(read_lines(folder / RECORDS)), json.loads((folder / RUN).read_text(encoding="utf-8"))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a file with one JSON a line."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name beside it and rename it."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
