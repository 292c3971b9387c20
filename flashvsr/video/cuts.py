"""Scene cuts, found while frames come: one frame late, in memory that does not grow."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from flashvsr.video.info import VideoFrame

THUMBNAIL = (18, 32)
"""Rows and columns at which frames are compared: small enough that motion moves little."""

REMEMBERED = 6
"""Frames before a cut that it is judged by."""

LEAST = 15.0
"""Levels of 255 by which the frames before and after a cut differ at least, on average."""

TIMES = 2.0
"""How many times as much as their neighbours they differ at least."""


class Marked(NamedTuple):
    """A frame, and whether a scene begins with it.

    Attributes:
        frame: The frame.
        is_cut: Whether it is the first of a scene; the first frame of a video is not marked.
        thumbnail: `[3, 18, 32]`, uint8: what later frames are compared with. None when nothing is looked for.
    """

    frame: VideoFrame
    is_cut: bool = False
    thumbnail: Tensor | None = None


def mark_cuts(frames: Iterable[VideoFrame], before: Sequence[Tensor] = ()) -> Iterator[Marked]:
    """Look for cuts: where a frame differs much from the one before, and its neighbours differ little.

    A fast pan is no cut, for its neighbours differ as much. A flash is none, for the frame after it, or before it, is
    like the one on its other side. A fade or a crossfade is none: nothing begins anew there.

    Args:
        frames: Of a video, in order.
        before: Thumbnails of the last `REMEMBERED` frames before these, when a run goes on.

    Yields:
        The frames, one behind those that were taken.
    """
    seen = deque(before, maxlen=REMEMBERED)
    held: tuple[VideoFrame, Tensor] | None = None
    for frame in frames:
        small = thumbnail(frame.pixels)
        if held is not None:
            yield Marked(held[0], is_cut([*seen, held[1]], small), held[1])
            seen.append(held[1])
        held = frame, small
    if held is not None:
        yield Marked(held[0], is_cut([*seen, held[1]], None), held[1])


def is_cut(seen: Sequence[Tensor], following: Tensor | None) -> bool:
    """Whether a scene begins with the last of some frames.

    Args:
        seen: Thumbnails of the frames before, and of the one in question.
        following: That of the next frame; None at the end of the video.
    """
    if len(seen) < 2:
        return False
    across = _difference(seen[-2], seen[-1])
    if across < LEAST:
        return False
    around = [_difference(one, other) for one, other in pairwise(seen[:-1])]
    calm = median(around) if around else 0.0
    after = 0.0
    if following is not None:
        after = _difference(seen[-1], following)
        across = min(across, _difference(seen[-2], following))
    if len(seen) > 2:
        across = min(across, _difference(seen[-3], seen[-1]))
    return across >= LEAST and across >= TIMES * (max(calm, after) + 1)


def thumbnail(pixels: Tensor) -> Tensor:
    """A frame `[3, h, w]`, uint8 or in [0, 1], averaged to `[3, 18, 32]`, uint8, on the CPU."""
    height, width = pixels.shape[1:]
    step = max(1, min(height // (4 * THUMBNAIL[0]), width // (4 * THUMBNAIL[1])))
    sample = pixels[:, ::step, ::step].float().cpu()
    small = adaptive_avg_pool2d(sample if pixels.dtype == torch.uint8 else sample * 255, THUMBNAIL)
    return small.clamp(0, 255).round().to(torch.uint8)


def _difference(one: Tensor, other: Tensor) -> float:
    """Mean absolute difference in levels of 255."""
    return (one.float() - other.float()).abs().mean().item()
