"""What passes from stage to stage: a source, a segment of a video, or a photograph."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Self

import numpy as np

from flashvsr.curate.rules import CurateRules

_NOT_KEPT = ("path", "name", "pictures", "later", "gap", "thumbnail", "timing", "known")


@dataclass(frozen=True)
class Row:
    """One source, or one segment of it once it was cut.

    Attributes:
        path: Of the file, where it lies now.
        name: Of the file, relative to the source that it was found in.
        sha256: Of its bytes; empty until known.
        kind: ``"video"`` or ``"photo"``; by its ending until it was opened.
        size: Rows and columns after rotation and cropping.
        box: Top, left, rows, columns of the picture without black bars, after rotation; None: all of it.
        fps: Average frame rate, such as "30000/1001"; None for photographs.
        time_base: Seconds per tick of ``start`` and ``end``, such as "1/90000".
        bit_rate: Of the whole file, in bits per second; 0 for photographs.
        copyable: Its bytes may go into a shard as they are: nothing to turn, crop, deinterlace or tone-map.
        start: First tick.
        end: Tick after the last frame.
        frames: In it.
        scene: Number of its scene.
        part: Number among the rows that came of its source.
        parts: How many came of its source.
        scores: By name.
        hashes: Perceptual hashes of its frames, 64 bits each.
        stage: That rejected it; None: not rejected.
        reason: Why.
        pictures: `[frames, h, w, 3]` uint8, for scorers with weights.
        later: `[frames, h, w, 3]` uint8, a little after each, for the optical flow.
        gap: Seconds between the two.
        thumbnail: JPEG.
        timing: Stage to seconds spent.
        known: It was measured in an earlier run.
    """

    path: str
    name: str
    sha256: str = ""
    kind: str = "video"
    size: tuple[int, int] = (0, 0)
    box: tuple[int, int, int, int] | None = None
    fps: str | None = None
    time_base: str = "1/1"
    bit_rate: int = 0
    copyable: bool = False
    start: int = 0
    end: int = 0
    frames: int = 0
    scene: int = 0
    part: int = 0
    parts: int = 1
    scores: dict[str, float] = field(default_factory=dict)
    hashes: tuple[int, ...] = ()
    stage: str | None = None
    reason: str | None = None
    pictures: np.ndarray[Any, Any] | None = None
    later: np.ndarray[Any, Any] | None = None
    gap: float = 0.0
    thumbnail: bytes | None = None
    timing: dict[str, float] = field(default_factory=dict)
    known: bool = False

    def rejected(self, stage: str, reason: str) -> Self:
        """The same, left out by a stage; the pictures are dropped."""
        reason = reason.splitlines()[0].replace(self.path, self.name)
        return replace(self, stage=stage, reason=reason, pictures=None, later=None)

    def scored(self, stage: str, rules: CurateRules, scores: dict[str, float]) -> Self:
        """With more scores, and rejected by the first one that lies outside its limits."""
        rounded = {name: float(f"{value:.6g}") for name, value in scores.items()}
        row = replace(self, scores=self.scores | rounded)
        for name, value in rounded.items():
            reason = rules.why_not(name, value)
            if reason is not None:
                return row.rejected(stage, reason)
        return row

    def timed(self, stage: str, seconds: float) -> Self:
        """With more time spent in a stage."""
        return replace(self, timing=self.timing | {stage: self.timing.get(stage, 0.0) + seconds})

    def seconds_of(self, tick: int) -> float:
        """A time in seconds, to the millisecond."""
        return round(float(tick * Fraction(self.time_base)), 3)

    @property
    def span(self) -> tuple[float, float]:
        """Start and end in seconds."""
        return self.seconds_of(self.start), self.seconds_of(self.end)

    def as_json(self) -> dict[str, Any]:
        """What the journal keeps: all that is true of the bytes, wherever and under whatever name they lie."""
        return {name: value for name, value in vars(self).items() if name not in _NOT_KEPT}

    @classmethod
    def from_json(cls, entry: dict[str, Any], path: str, name: str) -> Self:
        """A row of the journal, for a file of these bytes."""
        box = None if entry["box"] is None else tuple(entry["box"])
        lists = {"size": tuple(entry["size"]), "box": box, "hashes": tuple(entry["hashes"])}
        return cls(path=path, name=name, **(entry | lists))
