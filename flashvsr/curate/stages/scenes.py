"""Stage ``scenes``: a video is decoded once, cut where its scenes change, and scenes are cut into short segments."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector

from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules
from flashvsr.curate.stages.spans import length_of, open_picture
from flashvsr.video.info import VideoError

_STAGE = "scenes"
_WIDTH = 256  # pixels: what scenes are detected on
_TOLERANCE = 0.25  # seconds by which a file may end before the length that it states


def cut(row: Row, rules: CurateRules) -> list[Row]:
    """The segments of a video; photographs and what is rejected pass.

    Args:
        row: As `probe` left it.
        rules: The recipe.

    Returns:
        Its segments in order, those that are too short rejected; or the row itself, rejected, when it is damaged.
    """
    if row.kind == "photo" or row.stage is not None or row.known:
        return [row]
    try:
        times, cuts, steady = _watch(row, rules)
    except VideoError as error:
        return [row.rejected(_STAGE, f"damaged: {error}")]
    if len(times) < 2:
        return [row.rejected(_STAGE, f"holds {len(times)} frames")]
    segments = []
    time_base = Fraction(row.time_base)
    row = replace(row, copyable=row.copyable and steady)
    for scene, (first, last) in enumerate(pairwise([0, *cuts, len(times)])):
        seconds = float((_end(times, last) - times[first]) * time_base)
        pieces = max(1, math.ceil(round(seconds / rules.segment_seconds, 3)))
        borders = [first + round(number * (last - first) / pieces) for number in range(pieces + 1)]
        for begin, end in pairwise(borders):
            if end > begin:
                part = replace(row, start=times[begin], end=_end(times, end), frames=end - begin, scene=scene)
                segments.append(part.scored(_STAGE, rules, {"seconds": float((part.end - part.start) * time_base)}))
    return [replace(segment, part=number, parts=len(segments)) for number, segment in enumerate(segments)]


def _end(times: list[int], index: int) -> int:
    """Where the frame before ``index`` ends."""
    return times[index] if index < len(times) else times[-1] + (times[-1] - times[0]) // (len(times) - 1)


def _watch(row: Row, rules: CurateRules) -> tuple[list[int], list[int], bool]:
    """Times of all frames, the numbers of those that begin a scene, and whether the frame rate is constant."""
    rate = Fraction(row.fps or 25)
    detector = AdaptiveDetector(rules.scene_ratio, min_scene_len=max(2, round(rate / 5)))
    times: list[int] = []
    cuts: list[int] = []
    size: tuple[int, int] | None = None
    with open_picture(row.path) as (container, stream):
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise VideoError(f"at {float(len(times) / rate):.2f} s")
            if frame.pts is None or (times and frame.pts <= times[-1]):
                continue
            small = _small(frame)
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                raise VideoError(f"changes size at {float(len(times) / rate):.2f} s")
            cuts += [int(found.frame_num) for found in detector.process_frame(FrameTimecode(len(times), rate), small)]
            times.append(frame.pts)
        _check_end(container, stream, times)
    steady = all(abs((time - times[0]) * stream.time_base * rate - n) < 0.4 for n, time in enumerate(times))
    return times, cuts, steady


def _small(frame: Any) -> Any:
    """`[h, w, 3]` uint8, BGR, 256 wide."""
    height = max(2, round(frame.height * _WIDTH / frame.width))
    return frame.reformat(width=_WIDTH, height=height, format="bgr24", interpolation="AREA").to_ndarray()


def _check_end(container: Any, stream: Any, times: list[int]) -> None:
    """Containers that state their length must hold it."""
    if container.format.name.split(",")[0] not in ("matroska", "mov") or not times:
        return
    promised, seconds = length_of(container, stream), float((times[-1] - times[0]) * stream.time_base)
    step = seconds / max(1, len(times) - 1)
    if promised is not None and seconds + step < promised - _TOLERANCE - max(0.0, float(times[0] * stream.time_base)):
        raise VideoError(f"cut off at {seconds:.2f} s of {promised:.2f} s")
