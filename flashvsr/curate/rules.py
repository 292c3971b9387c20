"""What a curation recipe says: what is kept, how it is measured, how it is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from flashvsr.curate import CurateError

UNITS = {
    "short_side": "pixels",
    "photo_short_side": "pixels",
    "seconds": "s",
    "frame_rate": "1/s",
    "combing": "ratio",
    "sharpness": "%",
    "blockiness": "ratio",
    "exposure": "%",
    "clipped": "%",
    "aesthetic": "1 to 10",
    "musiq": "0 to 100",
    "motion": "%/s",
    "nearest": "bits of 64",
}
"""Every score and its unit.

short_side, photo_short_side: rows or columns, whichever are fewer, after rotation and cropping. seconds: of a source
and of a segment. frame_rate: average. combing: see `probe.combing`. sharpness, blockiness, exposure, clipped: see
`scores`. aesthetic, musiq: see `scorers`. motion: mean length of the optical flow, in per cent of the short side a
second. nearest: mean Hamming distance of perceptual hashes to the nearest one that is kept (`duplicates`).
"""
SCORERS = ("aesthetic", "musiq")
FLOWS = ("dis", "raft")


@dataclass(frozen=True)
class Limit:
    """Bounds of a score, both included; None is no bound."""

    min: float | None = None
    max: float | None = None


def _small_limits() -> dict[str, Limit]:
    return {
        "short_side": Limit(min=480),
        "photo_short_side": Limit(min=480),
        "seconds": Limit(min=1),
        "frame_rate": Limit(min=10),
        "combing": Limit(max=1.1),
        "sharpness": Limit(min=1.5),
        "blockiness": Limit(max=1.6),
        "exposure": Limit(min=4, max=96),
        "clipped": Limit(max=50),
        "motion": Limit(min=0.5),
        "nearest": Limit(min=7),
    }


@dataclass(frozen=True)
class CurateRules:
    """A recipe of `flashvsr curate`; the defaults are those of ``recipes/curate/small.yaml``.

    Attributes:
        name: Of the recipe.
        thresholds: Score to its limits (`UNITS` lists the scores).
        crop_letterbox: Cut black bars off; otherwise they stay.
        scene_ratio: PySceneDetect's adaptive threshold: by how much a change between frames exceeds its neighbours'.
        segment_seconds: Scenes are cut into equal segments of at most this length.
        frames: Looked at in each segment.
        scorers: Of `SCORERS`; they need weights. Without them only weight-free scores are computed.
        flow: ``"dis"`` (OpenCV, no weights) or ``"raft"`` (torchvision, needs weights).
        clip_seconds: Kept neighbours are merged into clips of at most this length.
        copy: Write without re-encoding where that is possible.
        copy_trim: Seconds by which a clip may be shortened at either end to reach a key frame and be copied.
        crf: Quality of what must be encoded (libx264); lower is better.
        photo_quality: Of photographs that must be encoded (WebP), 1 to 100.
        val_fraction: Share of sources that become validation data; unless 0, at least one of two that are kept.
        shard_samples: At most in one shard.
        shard_seconds: Of video at most in one shard, unless one clip is longer.
        timeout: Seconds after which one step on one file is stopped and the file rejected.
    """

    name: str = "small"
    thresholds: dict[str, Limit] = field(default_factory=_small_limits)
    crop_letterbox: bool = True
    scene_ratio: float = 3.0
    segment_seconds: float = 8.0
    frames: int = 4
    scorers: tuple[str, ...] = ()
    flow: str = "dis"
    clip_seconds: float = 60.0
    copy: bool = True
    copy_trim: float = 0.5
    crf: float = 14.0
    photo_quality: int = 95
    val_fraction: float = 0.05
    shard_samples: int = 64
    shard_seconds: float = 300.0
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        for name, allowed in (*((scorer, SCORERS) for scorer in self.scorers), (self.flow, FLOWS)):
            if name not in allowed:
                raise CurateError(f"recipe {self.name}: unknown {name!r}\nexpected of {', '.join(allowed)}")
        for score, limit in self.thresholds.items():
            if score not in UNITS:
                raise CurateError(f"recipe {self.name}: unknown score {score!r}\nexpected of {', '.join(UNITS)}")
            if score in SCORERS and score not in self.scorers and limit != Limit():
                raise CurateError(
                    f"recipe {self.name}: a limit on {score}, which `scorers` does not list\nadd it there"
                )
        positive = {
            name: getattr(self, name) for name in ("segment_seconds", "clip_seconds", "shard_samples", "frames")
        }
        for name, value in positive.items():
            if value <= 0:
                raise CurateError(f"recipe {self.name}: {name}={value}\nexpected more than 0")
        if not 0 <= self.val_fraction < 1:
            raise CurateError(f"recipe {self.name}: val_fraction={self.val_fraction}\nexpected a share in [0, 1)")

    def why_not(self, score: str, value: float) -> str | None:
        """A few words when a value lies outside the limits of a score, else None."""
        limit, unit = self.thresholds.get(score, Limit()), UNITS[score]
        shown = "/s" if unit == "1/s" else f" {unit}"
        if limit.min is not None and value < limit.min:
            return f"{score} {value:.4g} < {limit.min:g}{shown}"
        if limit.max is not None and value > limit.max:
            return f"{score} {value:.4g} > {limit.max:g}{shown}"
        return None

    def as_json(self) -> dict[str, Any]:
        """Everything that decides about the result, for comparing two runs."""
        return asdict(self) | {"scorers": list(self.scorers)}


def read_rules(path: str | Path) -> CurateRules:
    """Read a recipe.

    Args:
        path: A YAML file: attributes of `CurateRules` (what is left out has its default), ``thresholds`` as score to
            ``{min, max, unit}``. The unit is written beside each number and must be the one of `UNITS`.

    Raises:
        CurateError: For a missing file, unknown keys, scores or units, and values that make no sense.
    """
    path = Path(path)
    if not path.is_file():
        raise CurateError(
            f"{path}: no such recipe\nexpected a YAML file such as `flashvsr recipes show curate/small` prints"
        )
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise CurateError(f"{path} is no YAML: {str(error).splitlines()[0]}\ncorrect it there") from error
    known = {one.name for one in fields(CurateRules)} - {"name"}
    if not isinstance(said, dict) or not said.keys() <= known:
        unknown = sorted(said.keys() - known) if isinstance(said, dict) else said
        raise CurateError(f"{path}: unknown {unknown}\nexpected of {', '.join(sorted(known))}")
    if "thresholds" in said:
        said["thresholds"] = {score: _limit(path, score, entry) for score, entry in said["thresholds"].items()}
    if "scorers" in said:
        said["scorers"] = tuple(said["scorers"])
    return CurateRules(name=path.stem, **said)


def _limit(path: Path, score: str, entry: Any) -> Limit:
    if not isinstance(entry, dict) or not {"unit"} <= entry.keys() <= {"min", "max", "unit"}:
        raise CurateError(f"{path}: {score}: {entry}\nexpected {{min: NUMBER, max: NUMBER, unit: {UNITS.get(score)}}}")
    if score in UNITS and entry["unit"] != UNITS[score]:
        raise CurateError(f"{path}: {score} is measured in {UNITS[score]!r}, not {entry['unit']!r}\nconvert the limits")
    return Limit(entry.get("min"), entry.get("max"))
