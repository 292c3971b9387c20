"""From segments that are kept to clips, their split, and the shards that hold them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flashvsr.curate.records import STAGES
from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules


@dataclass(frozen=True)
class ShardClip:
    """One sample to write: neighbouring segments of one scene, or a photograph.

    Attributes:
        key: In its shard; from the source's bytes and the time.
        row: The first segment, extended to the end of the last one.
        split: ``"train"`` or ``"val"``.
        licence: Of the source; None if none was given.
        parts: Numbers of the segments it was merged of.
    """

    key: str
    row: Row
    split: str
    licence: str | None
    parts: tuple[int, ...]

    @property
    def seconds(self) -> float:
        """Length; 0 for a photograph."""
        start, end = self.row.span
        return end - start


@dataclass(frozen=True)
class ShardPlan:
    """What one shard will hold.

    Attributes:
        name: ``"train/shard-00000.tar"``, below the output folder.
        clips: In order.
    """

    name: str
    clips: tuple[ShardClip, ...]

    @property
    def split(self) -> str:
        """``"train"`` or ``"val"``."""
        return self.name.partition("/")[0]

    def fingerprint(self, rules: CurateRules) -> str:
        """Of all that decides about the shard's bytes."""
        clips = [
            [clip.key, clip.split, clip.licence, clip.parts, clip.row.name, clip.row.as_json()] for clip in self.clips
        ]
        writing = [rules.copy, rules.copy_trim, rules.crf, rules.photo_quality]
        return hashlib.sha256(json.dumps([self.name, clips, writing], sort_keys=True).encode()).hexdigest()


def merge(rows: Sequence[Row], rules: CurateRules) -> list[list[Row]]:
    """Runs of kept segments that touch and share a scene, each at most `CurateRules.clip_seconds` long."""
    runs: list[list[Row]] = []
    for row in sorted((row for row in rows if row.stage is None), key=lambda row: (row.name, row.part)):
        if runs and _continues(runs[-1], row, rules):
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs


def _continues(run: list[Row], row: Row, rules: CurateRules) -> bool:
    last = run[-1]
    together = row.span[1] - run[0].span[0]
    same = (last.name, last.scene, last.end) == (row.name, row.scene, row.start)
    return row.kind == "video" and same and together <= rules.clip_seconds


def split_of(
    sha256s: Iterable[str], linked: Iterable[tuple[str, str]], seed: int, share: float, kept: Iterable[str] = ()
) -> dict[str, str]:
    """On which side each source falls: by its bytes and the seed, never by its name or place.

    Sources that share pictures fall on the same side, the one of the smallest hash among them. Where chance would leave
    a side without any source that is kept, the nearest to the border changes: recipes want both.

    Args:
        sha256s: Of all sources.
        linked: Pairs that share pictures.
        seed: Another one, another split.
        share: Of validation data; 0 for none.
        kept: Sources of which something is kept.

    Returns:
        Hash to ``"train"`` or ``"val"``.
    """
    leader = {sha: sha for sha in sha256s}

    def find(sha: str) -> str:
        while leader[sha] != sha:
            sha = leader[sha]
        return sha

    for one, other in linked:
        first, second = sorted((find(one), find(other)))
        leader[second] = first
    place = {find(sha): _uniform(seed, find(sha)) for sha in leader}
    val = {group for group, at in place.items() if at < share}
    groups = {find(sha) for sha in kept}
    if share > 0 and len(groups) > 1:
        if not groups & val:
            val.add(min(groups, key=place.__getitem__))
        elif groups <= val:
            val.remove(max(groups, key=place.__getitem__))
    return {sha: "val" if find(sha) in val else "train" for sha in leader}


def _uniform(seed: int, sha256: str) -> float:
    return int(hashlib.sha256(f"{seed}:{sha256}".encode()).hexdigest()[:12], 16) / 16**12


def make_clips(
    rows: Sequence[Row],
    linked: Iterable[tuple[str, str]],
    licences: dict[str, str],
    seed: int,
    rules: CurateRules,
) -> list[ShardClip]:
    """The clips of all kept rows, in an order that mixes sources and depends only on their bytes."""
    kept = {row.sha256 for row in rows if row.stage is None}
    sides = split_of({row.sha256 for row in rows if row.sha256}, linked, seed, rules.val_fraction, kept)
    clips = []
    for run in merge(rows, rules):
        row = replace(run[0], end=run[-1].end, frames=sum(part.frames for part in run))
        scores = {name: _mean(part.scores[name] for part in run) for name in row.scores}
        key = f"{row.sha256[:16]}-{round(1000 * row.span[0]):09d}"
        licence = licences.get(row.name, licences.get(row.name.rpartition("/")[2]))
        parts = tuple(part.part for part in run)
        clips.append(ShardClip(key, replace(row, scores=scores, hashes=()), sides[row.sha256], licence, parts))
    return sorted(clips, key=lambda clip: hashlib.sha256(clip.key.encode()).digest())


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return float(f"{sum(numbers) / len(numbers):.6g}")


def make_shard_plans(clips: Sequence[ShardClip], rules: CurateRules) -> list[ShardPlan]:
    """Clips in their order into shards, each closed when it holds enough."""
    plans = []
    for split in ("train", "val"):
        groups: list[list[ShardClip]] = []
        seconds = 0.0
        for clip in (clip for clip in clips if clip.split == split):
            full = not groups or len(groups[-1]) >= rules.shard_samples
            if full or seconds + clip.seconds > rules.shard_seconds:
                groups.append([])
                seconds = 0.0
            groups[-1].append(clip)
            seconds += clip.seconds
        plans += [ShardPlan(f"{split}/shard-{n:05d}.tar", tuple(group)) for n, group in enumerate(groups)]
    return plans


def funnel(rows: Sequence[Row], sources: int, photos: int, hours: float) -> list[dict[str, Any]]:
    """What is left after each stage: segments (sources before they are cut), hours of video, photographs."""
    steps = [{"stage": "raw", "count": sources - photos, "hours": round(hours, 6), "photos": photos}]
    for number, stage in enumerate((*STAGES, "kept")):
        left = [row for row in rows if row.stage is None or STAGES.index(row.stage) > number]
        videos = [row for row in left if row.kind == "video"]
        count = len({row.name for row in videos}) if stage == "probe" else len(videos)
        length = sum(row.span[1] - row.span[0] for row in videos) / 3600
        steps.append({"stage": stage, "count": count, "hours": round(length, 6), "photos": len(left) - len(videos)})
    return steps
