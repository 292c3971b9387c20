"""Stages ``quality`` and ``motion`` without weights; hashes and thumbnails of segments and photographs."""

from __future__ import annotations

import io
from dataclasses import replace
from fractions import Fraction
from time import perf_counter
from typing import Any

import imagehash
import numpy as np
from PIL import Image, ImageOps

from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules
from flashvsr.curate.stages.probe import PHOTO_FORMATS
from flashvsr.curate.stages.scores import motion_dis, weight_free
from flashvsr.curate.stages.spans import Pixels, frames_from, open_picture
from flashvsr.video.info import VideoError
from flashvsr.video.picture.crop import container_crop

_THUMBNAIL = 160  # pixels wide, at most
_GAP = 10  # the flow is computed over a tenth of a second


def measure(row: Row, rules: CurateRules) -> Row:
    """Decode a few frames of a segment or a photograph, and score them.

    Args:
        row: As `scenes.cut` left it.
        rules: The recipe.

    Returns:
        The row with scores, hashes and a thumbnail; with its pictures only if scorers with weights come after.
    """
    if row.stage is not None or row.known:
        return row
    start = perf_counter()
    try:
        row = _look(row, rules)
    except VideoError as error:
        return row.rejected("quality", f"damaged: {error}")
    assert row.pictures is not None
    pictures, later = row.pictures, row.later
    row = replace(row, hashes=hashes(pictures), thumbnail=thumbnail(pictures[len(pictures) // 2]))
    row, start = row.timed("frames", perf_counter() - start), perf_counter()
    row = row.scored("quality", rules, weight_free(pictures))
    row, start = row.timed("quality", perf_counter() - start), perf_counter()
    if row.stage is None and later is not None and rules.flow == "dis":
        row = row.scored("motion", rules, {"motion": motion_dis(pictures, later, row.gap)})
        row = row.timed("motion", perf_counter() - start)
    keep_later = row.stage is None and rules.flow == "raft"
    keep = row.stage is None and (bool(rules.scorers) or (keep_later and later is not None))
    return replace(row, pictures=row.pictures if keep else None, later=row.later if keep_later else None)


def _look(row: Row, rules: CurateRules) -> Row:
    if row.kind == "photo":
        return replace(row, pictures=np.asarray(open_photo(row.path))[None])
    gap = max(1, round(Fraction(row.fps or 25) / _GAP))
    gap = min(gap, row.frames - 1)
    wanted = [int((number + 0.5) / rules.frames * row.frames) for number in range(rules.frames)]
    wanted = [min(number, row.frames - 1 - gap) for number in wanted]
    found = frames_at(row, sorted({*wanted, *(number + gap for number in wanted)}))
    return replace(
        row,
        pictures=np.stack([found[number] for number in wanted]),
        later=np.stack([found[number + gap] for number in wanted]) if gap else None,
        gap=float(gap / Fraction(row.fps or 25)),
    )


def frames_at(row: Row, numbers: list[int]) -> dict[int, np.ndarray[Any, Any]]:
    """Frames `[h, w, 3]` of a segment by their number in it.

    Raises:
        VideoError: If the segment ends before the last of them.
    """
    found: dict[int, np.ndarray[Any, Any]] = {}
    with open_picture(row.path) as (container, stream):
        pixels = Pixels(row.box, container_crop(stream), codec=stream.codec_context.codec.canonical_name)
        for number, frame in enumerate(frames_from(container, stream, row.start)):
            if number in numbers:
                found[number] = pixels(frame).permute(1, 2, 0).numpy()
            if number >= numbers[-1]:
                return found
    raise VideoError(f"{row.path} ends before frame {numbers[-1]} of its segment")


def open_photo(path: str) -> Image.Image:
    """An RGB picture, upright.

    Raises:
        VideoError: If it is damaged.
    """
    try:
        with Image.open(path, formats=PHOTO_FORMATS) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise VideoError(f"cannot read {path} as a photograph: {error}") from error


def hashes(pictures: np.ndarray[Any, Any]) -> tuple[int, ...]:
    """Perceptual hash of each picture: signs of the low frequencies of its DCT, as a number of 64 bits."""
    return tuple(int(str(imagehash.phash(Image.fromarray(picture))), 16) for picture in pictures)


def thumbnail(picture: np.ndarray[Any, Any]) -> bytes:
    """A small JPEG of a picture `[h, w, 3]`."""
    image = Image.fromarray(picture)
    image.thumbnail((_THUMBNAIL, 4 * _THUMBNAIL), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
