"""What the report page shows of a run: one pass over its records, in memory that does not grow with their pictures."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flashvsr.curate import CurateError
from flashvsr.curate.records import RECORDS, REPORT, RUN, STAGES, read_lines

SHOWN = 36
"""Samples of a contact sheet."""

LISTED = 500
"""Rows of a list of files or shards."""

_GROUPS = 40
_DETAIL = re.compile(r"\s*([:<>('\"]| (of|as|than|before|after) ).*")
_NUMBER = re.compile(r"\d[\d.,:/x]*")


class Reason(NamedTuple):
    """Why samples were rejected, without the numbers and names that differ from one to the next."""

    stage: str
    words: str
    score: str | None  # whose threshold decided


@dataclass
class Group:
    """Samples of one fate, and a fixed random choice of them."""

    clips: int = 0
    seconds: float = 0.0
    photos: int = 0
    chosen: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Segments and photographs."""
        return self.clips + self.photos

    def add(self, record: dict[str, Any]) -> None:
        """Count a sample, and show it if its hash is among the smallest."""
        if record["kind"] == "photo":
            self.photos += 1
        else:
            self.clips += 1
            self.seconds += record["end"] - record["start"]
        name = json.dumps([record["source"], record["start"], record["end"]])
        self.chosen.append((hashlib.sha256(name.encode()).hexdigest(), record))
        if len(self.chosen) > 4 * SHOWN:
            self._trim()

    def shown(self, many: int = SHOWN, score: str | None = None) -> list[dict[str, Any]]:
        """At most ``many`` (and `SHOWN`) samples, in the order of a score, or of their sources and times."""
        self._trim()

        def place(record: dict[str, Any]) -> tuple[float, str, float]:
            return record["scores"].get(score, math.inf), record["source"], record["start"]

        return sorted((record for _, record in self.chosen[:many]), key=place)

    def _trim(self) -> None:
        self.chosen = heapq.nsmallest(SHOWN, self.chosen, key=lambda item: item[0])


@dataclass
class Score:
    """Values of one score and the limits that it was held to.

    Attributes:
        values: By fate: "kept", "cut" (beyond these limits), "other" (rejected for something else).
        unusable: How many were no finite number.
    """

    minimum: float | None
    maximum: float | None
    unit: str
    values: dict[str, array] = field(default_factory=lambda: {name: array("d") for name in ("kept", "other", "cut")})
    unusable: int = 0

    @property
    def count(self) -> int:
        """Samples that have this score."""
        return sum(map(len, self.values.values()))

    def add(self, value: float | None, kept: bool) -> None:
        """Count a value. One that equals a limit is within it."""
        if value is None or not math.isfinite(value):
            self.unusable += 1
            return
        beyond = (self.minimum is not None and value < self.minimum) or (
            self.maximum is not None and value > self.maximum
        )
        self.values["cut" if beyond and not kept else "kept" if kept else "other"].append(value)


@dataclass
class Split:
    """What went into the training or the validation set."""

    sources: set[str] = field(default_factory=set)
    group: Group = field(default_factory=Group)


@dataclass
class Run:
    """A curation run as its report shows it."""

    recipe: str
    funnel: list[dict[str, Any]]
    shards: list[dict[str, Any]]
    scores: dict[str, Score]
    kept: Group = field(default_factory=Group)
    rejected: dict[Reason, Group] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    unusable: list[dict[str, Any]] = field(default_factory=list)
    unusable_count: int = 0

    def reasons(self) -> list[tuple[Reason, Group]]:
        """In the order of the stages, the most frequent first."""
        order = {stage: place for place, stage in enumerate(STAGES)}

        def place(item: tuple[Reason, Group]) -> tuple[int, int, tuple[str, str]]:
            return order.get(item[0].stage, len(order)), -item[1].count, item[0][:2]

        return sorted(self.rejected.items(), key=place)

    def add(self, record: dict[str, Any]) -> None:
        """Count one record."""
        for name, value in record["scores"].items():
            if name in self.scores:
                self.scores[name].add(value, record["kept"])
        if record["kept"]:
            self.kept.add(record)
            split = self.splits.setdefault(record["split"], Split())
            split.sources.add(record["source"])
            split.group.add(record)
            return
        reason = self._reason(record)
        self.rejected.setdefault(reason, Group()).add(record)
        if reason.score is None and reason.stage != "duplicates":
            self.unusable_count += 1
            if len(self.unusable) < LISTED:
                self.unusable.append(record)

    def _reason(self, record: dict[str, Any]) -> Reason:
        stage, text = record["stage"], record["reason"]
        score = next((name for name in self.scores if text.startswith(f"{name} ")), None)
        if score:
            words = f"{score} {'above' if '>' in text else 'below'} its limit"
        else:
            name = re.compile(rf"(?<!\S){re.escape(record['source'])}(?![^\s:,;])")
            plain = _DETAIL.sub("", name.sub("", text).strip())
            words = " ".join(_NUMBER.sub("n", plain).split()) or "no reason given"
        reason = Reason(stage, words, score)
        return reason if reason in self.rejected or len(self.rejected) < _GROUPS else Reason(stage, "other", None)


def read_run(folder: Path) -> Run:
    """Everything about the run whose results lie in a folder.

    Raises:
        CurateError: If its records are missing, damaged, or contradict each other.
    """
    summary, records = folder / REPORT / RUN, folder / REPORT / RECORDS
    for path in (summary, records):
        if not path.is_file():
            raise CurateError(f"{path}: no such file\nname the folder that flashvsr curate wrote")
    try:
        told = json.loads(summary.read_bytes())
        limits = sorted(told["thresholds"].items(), key=lambda item: (not _has_limit(item[1]), item[0]))
        scores = {name: Score(limit["min"], limit["max"], limit["unit"]) for name, limit in limits}
        run = Run(told["recipe"], told["funnel"], told["shards"], scores)
    except (KeyError, TypeError, ValueError) as error:
        raise CurateError(f"{summary} is damaged: {error!r}\nrun flashvsr curate again") from error
    for number, record in _numbered(records):
        try:
            run.add(record)
        except (KeyError, TypeError) as error:
            raise CurateError(f"{records}, line {number}, is damaged: {error!r}\nrun flashvsr curate again") from error
    _check(run, summary, records)
    return run


def _has_limit(limit: dict[str, Any]) -> bool:
    return limit["min"] is not None or limit["max"] is not None


def _numbered(records: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        for number, record in enumerate(read_lines(records), start=1):
            yield number, record
    except ValueError as error:
        raise CurateError(f"{records}, line {number + 1}, is no JSON\nrun flashvsr curate again") from error


def _check(run: Run, summary: Path, records: Path) -> None:
    """A report that contradicts itself is worse than none."""
    if not run.funnel:
        raise CurateError(f"{summary} has an empty funnel\nrun flashvsr curate again")
    last = run.funnel[-1]
    for what, said, found in (
        ("segments", last["count"], run.kept.clips),
        ("photographs", last["photos"], run.kept.photos),
    ):
        if said != found:
            raise CurateError(
                f"{summary} says that {said} {what} were kept, {records} holds {found}\nrun flashvsr curate again"
            )
