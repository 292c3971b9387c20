"""Stage ``probe``: what a file is, and whether it is worth decoding."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules
from flashvsr.curate.stages.spans import Pixels, frames_from, length_of, open_picture, rate_of
from flashvsr.video.info import VideoError
from flashvsr.video.picture.crop import NO_CROP, container_crop
from flashvsr.video.picture.pixels import bit_depth, display_matrix, frame_colors

PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
_STAGE = "probe"
_LOOKS = 6  # places of a video that are looked at
_BLACK = 24  # of 255: the brightest that a black bar gets, noise of the encoder included
_MOVED = 12  # of 255: a pixel that changed this much between two frames moved
_COPYABLE = ("h264", "hevc", "av1", "vp9")
_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS


def probe(row: Row, rules: CurateRules, known: frozenset[str]) -> Row:
    """Hash a file, find out by its content what it is, and reject what cannot be used.

    Args:
        row: With path and name.
        rules: The recipe.
        known: Hashes of files that need no second look.

    Returns:
        The row with kind, size, box, rate and length; rejected if it is damaged or outside the limits.
    """
    row = replace(row, sha256=_hash(Path(row.path)))
    if row.sha256 in known:
        return replace(row, known=True)
    try:
        photo = _photo(row, rules)
        return photo if photo is not None else _video(replace(row, kind="video"), rules)
    except VideoError as error:
        return row.rejected(_STAGE, str(error))


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _photo(row: Row, rules: CurateRules) -> Row | None:
    """The row of a photograph; None when the file is none."""
    try:
        with Image.open(row.path, formats=PHOTO_FORMATS) as image:
            row = replace(row, kind="photo", size=_upright_size(image), frames=1)
            if getattr(image, "is_animated", False):
                return row.rejected(_STAGE, "an animation, not a photograph")
            if image.mode[0] in "IF":  # Pillow would cut them off at 255
                return row.rejected(_STAGE, f"pixels of mode {image.mode}, not of 8 bits")
            image.load()
    except Image.UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return replace(row, kind="photo").rejected(_STAGE, f"damaged: {str(error).splitlines()[0]}")
    return row.scored(_STAGE, rules, {"photo_short_side": min(row.size)})


def _upright_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation
    return (image.width, image.height) if turned else (image.height, image.width)


def _video(row: Row, rules: CurateRules) -> Row:
    with open_picture(row.path) as (container, stream):
        if container.format.flags & _NO_TIMESTAMPS:
            return row.rejected(_STAGE, "has no timestamps: put it into a container such as mp4 first")
        rate, length = rate_of(stream), length_of(container, stream)
        if rate is None or length is None or stream.time_base is None:
            return row.rejected(_STAGE, "states no frame rate or no length")
        row = replace(row, fps=str(rate), time_base=str(stream.time_base), end=round(length / stream.time_base))
        row = replace(row, bit_rate=round(8 * Path(row.path).stat().st_size / max(length, 1e-3)))
        frame = next(container.decode(stream), None)
        if frame is None:
            return row.rejected(_STAGE, "holds no frame that can be decoded")
        width, height = container_crop(stream).size(frame.width, frame.height)
        row = replace(row, size=(width, height) if display_matrix(frame)[0] == 0 else (height, width))
        whole = min(row.size)  # bars only make it smaller
        row = row.scored(_STAGE, rules, {"short_side": whole, "seconds": length, "frame_rate": float(rate)})
        if row.stage is not None:
            return row
        if stream.sample_aspect_ratio not in (None, 0, 1):
            return row.rejected(_STAGE, f"pixels are not square ({stream.sample_aspect_ratio})")
        looks, flagged = _look(container, stream, length)
        if flagged:
            return row.rejected(_STAGE, "interlaced, as its frames say")
        row = row.scored(_STAGE, rules, {"combing": max((combing(*pair) for pair in looks), default=0.0)})
        if row.stage is not None:
            return row
        row = replace(row, copyable=_copyable(stream, frame))
        return _crop(row, rules, [first for first, _ in looks])


def _look(container: Any, stream: Any, length: float) -> tuple[list[tuple[Any, Any]], bool]:
    """Pairs of neighbouring frames `[h, w, 3]` spread over a video, and whether most say that they are interlaced."""
    pixels, flags = Pixels(crop=container_crop(stream), codec=stream.codec_context.codec.canonical_name), 0
    pairs: list[tuple[Any, Any]] = []
    origin = stream.start_time or 0
    for number in range(_LOOKS):
        at = origin + int((number + 0.5) / _LOOKS * length / stream.time_base)
        pair = list(islice(frames_from(container, stream, at), 2))
        if len(pair) == 2:
            flags += bool(pair[0].interlaced_frame)
            first, second = (pixels(frame).permute(1, 2, 0).numpy() for frame in pair)
            pairs.append((first, second))
    return pairs, 2 * flags > len(pairs) > 0


def combing(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    """How much more neighbouring rows differ than rows two apart, where something moves between two frames.

    In a progressive picture rows two apart differ more (well below 1); where two fields of different times are woven
    into one frame, moving edges make neighbouring rows differ more (above 1).

    Args:
        first: `[h, w, 3]` uint8.
        second: The next frame.

    Returns:
        The ratio; 0 when less than 0.5% of the pixels move.
    """
    rows = first[..., 1].astype(np.float32)
    moved = np.abs(second[..., 1].astype(np.float32) - rows)[1:-2] > _MOVED
    if rows.shape[0] < 8 or moved.mean() < 0.005:
        return 0.0
    near = np.abs(rows[1:-2] - rows[2:-1])[moved].mean()
    far = np.abs(rows[1:-2] - rows[3:])[moved].mean()
    return float(near / max(far, 1e-3))


def _copyable(stream: Any, frame: Any) -> bool:
    """Whether its packets may be used as they are by `clips.decode_clip`, which neither turns nor tone-maps."""
    colors = frame_colors(frame, stream.codec_context.codec.canonical_name)
    return (
        stream.codec_context.name in _COPYABLE
        and frame.format.name in ("yuv420p", "yuvj420p")
        and bit_depth(frame) == 8
        and colors.transfer not in (16, 18)
        and display_matrix(frame) == (1, 0, 0, 1)
        and container_crop(stream) == NO_CROP
        and frame.width % 2 == frame.height % 2 == 0
    )


def _crop(row: Row, rules: CurateRules, frames: list[np.ndarray[Any, Any]]) -> Row:
    """Without black bars, where there are some; sizes become even."""
    box = letterbox(frames) if rules.crop_letterbox and frames else (0, 0, *row.size)
    if box is None:
        return row.rejected(_STAGE, "black all over")
    top, left, height, width = (side - side % 2 for side in box)
    if (height, width) == row.size:
        return row
    row = replace(row, box=(top, left, height, width), size=(height, width), copyable=False)
    return row.scored(_STAGE, rules, {"short_side": min(row.size)})


def letterbox(frames: list[np.ndarray[Any, Any]]) -> tuple[int, int, int, int] | None:
    """The part of the picture that is not black in all frames.

    A bar is at least 2% of its side; what is thinner stays. Bars are cut two pixels further in, where they blur.

    Args:
        frames: `[h, w, 3]` uint8 each.

    Returns:
        Top, left, rows, columns; None when everything is black.
    """
    brightest = np.max([frame.max(axis=2) for frame in frames], axis=0)
    spans = []
    for axis in (1, 0):
        # of a line, all but the brightest hundredth: a logo or a burst of noise does not make a bar part of the picture
        lines = np.percentile(brightest, 99, axis=axis)
        bright = np.flatnonzero(lines > _BLACK)
        if not len(bright):
            return None
        first, last, side = int(bright[0]), int(bright[-1]) + 1, len(lines)
        first = first + 2 + first % 2 if first >= 0.02 * side else 0
        last = last - 2 if side - last >= 0.02 * side else side
        spans.append((first, max(last - first, 0)))
    (top, height), (left, width) = spans
    return (top, left, height, width) if min(height, width) > 0 else None


def rate(row: Row) -> Fraction:
    """Average frames per second of a video, in a form that encoders take."""
    return Fraction(row.fps or 25).limit_denominator(1001)
