"""Stage ``write``: clips into shards, their packets copied where that is possible, else encoded."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

from PIL import Image

from flashvsr.curate.isolation import WorkerCrashed, call_isolated
from flashvsr.curate.plan import ShardClip, ShardPlan
from flashvsr.curate.records import write_text
from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules
from flashvsr.curate.stages.copy_packets import copy_packets
from flashvsr.curate.stages.measure import open_photo
from flashvsr.curate.stages.probe import PHOTO_FORMATS, rate
from flashvsr.curate.stages.spans import Pixels, frames_from, open_picture
from flashvsr.data.clip_encoder import ClipEncoder
from flashvsr.data.shard_writer import ShardSample, add_member
from flashvsr.video.info import VideoError
from flashvsr.video.picture.crop import container_crop

_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def write_shard(plan: ShardPlan, rules: CurateRules, out: Path, journal: Path) -> dict[str, Any]:
    """Write one shard, and what is in it beside it in the journal; or find that this was done before.

    Args:
        plan: Its clips.
        rules: The recipe.
        out: The output folder.
        journal: Folder of the journal's entries for shards.

    Returns:
        The entry: name, sha256, bytes, its samples, clips that failed and why, and the seconds it took (0 if it was
        there). A shard of which every clip failed is not written and has no ``sha256``.
    """
    start, target, note = perf_counter(), out / plan.name, journal / f"{plan.name.replace('/', '-')}.json"
    fingerprint = plan.fingerprint(rules)
    entry = _found(target, note, fingerprint)
    if entry is not None:
        return entry | {"took": 0.0}
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    samples, failed = [], []
    try:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
            for clip in plan.clips:
                try:
                    sample = call_isolated(write_clip, clip, rules, timeout=rules.timeout)
                except WorkerCrashed as error:
                    sample = str(error)
                if isinstance(sample, str):
                    failed.append({"key": clip.key, "reason": sample})
                    continue
                add_member(tar, f"{sample.key}.{sample.ending}", sample.media)
                add_member(tar, f"{sample.key}.json", json.dumps(sample.metadata, sort_keys=True).encode())
                told = {"key": sample.key, "sha256": hashlib.sha256(sample.media).hexdigest()}
                samples.append(told | sample.metadata)
        Path(temporary).chmod(0o644)
        if samples:
            Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    entry = {"name": plan.name, "plan": fingerprint, "samples": samples, "failed": failed}
    if samples:
        entry |= {"sha256": _hash(target), "bytes": target.stat().st_size}
    write_text(note, json.dumps(entry, sort_keys=True))
    return entry | {"took": perf_counter() - start}


def _found(target: Path, note: Path, fingerprint: str) -> dict[str, Any] | None:
    """The entry of a shard that is there, whole and of this plan."""
    if not note.is_file():
        return None
    entry = json.loads(note.read_text(encoding="utf-8"))
    if entry["plan"] != fingerprint:
        return None
    whole = "sha256" not in entry or (target.is_file() and _hash(target) == entry["sha256"])
    return entry if whole else None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_clip(clip: ShardClip, rules: CurateRules) -> ShardSample | str:
    """The sample of a clip; or why there is none, in a few words."""
    try:
        return _photo(clip, rules) if clip.row.kind == "photo" else _video(clip, rules)
    except VideoError as error:
        return str(error).splitlines()[0].replace(clip.row.path, clip.row.name)


def _photo(clip: ShardClip, rules: CurateRules) -> ShardSample:
    row = clip.row
    with Image.open(row.path, formats=PHOTO_FORMATS) as image:
        upright = image.getexif().get(0x0112, 1) == 1
        copied = image.format in _ENDINGS and image.mode in ("RGB", "L") and upright
        ending = _ENDINGS[image.format] if copied and image.format else "webp"
    if copied:
        media = Path(row.path).read_bytes()
    else:
        buffer = io.BytesIO()
        open_photo(row.path).save(buffer, "WEBP", quality=rules.photo_quality, method=4, use_sharp_yuv=True)
        media = buffer.getvalue()
    metadata = _metadata(clip, row, 1, None, copied) | {"kind": "image"}
    return ShardSample(clip.key, ending, media, metadata)


def _video(clip: ShardClip, rules: CurateRules) -> ShardSample:
    row = clip.row
    if rules.copy and row.copyable:
        copied = copy_packets(row, rules.copy_trim)
        if copied is not None:
            media, start, end, frames = copied
            row = replace(row, start=start, end=end)
            return ShardSample(
                clip.key, "mp4", media, _metadata(clip, row, frames, float(Fraction(row.fps or 25)), True)
            )
    height, width = (side - side % 2 for side in row.size)
    encoder = ClipEncoder((width, height), rate(row), rules.crf)
    with open_picture(row.path) as (container, stream):
        pixels = Pixels(row.box, container_crop(stream), codec=stream.codec_context.codec.canonical_name)
        for frame in frames_from(container, stream, row.start):
            encoder.write(pixels(frame)[:, :height, :width])
            if encoder.frames == row.frames:
                break
    if encoder.frames < row.frames:
        raise VideoError(f"ends after {encoder.frames} of {row.frames} frames")
    row = replace(row, size=(height, width))
    return ShardSample(
        clip.key, "mp4", encoder.close(), _metadata(clip, row, encoder.frames, float(encoder.rate), False)
    )


def _metadata(clip: ShardClip, row: Row, frames: int, fps: float | None, copied: bool) -> dict[str, Any]:
    """What the shard and the manifest say about a sample."""
    start, end = row.span
    return {
        "kind": "video",
        "source": row.name,
        "source_sha256": row.sha256,
        "start": start,
        "end": end,
        "crop": row.box,
        "width": row.size[1],
        "height": row.size[0],
        "frames": frames,
        "fps": fps,
        "written": "copied" if copied else "encoded",
        "licence": clip.licence,
        "split": clip.split,
        "scores": row.scores,
    }
