"""Whether frames are whole pictures, two fields of different moments, or film in the fields of video: measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import av
import numpy as np
from numpy.typing import NDArray

Scan = Literal["progressive", "top", "bottom", "film", "unknown"]

_COLUMNS = 256  # of a frame that are looked at: combs are vertical
_MOVES = 10  # steps of 8-bit luma by which a pixel differs from the frame before when something moves there
_LEAST_MOTION = 0.002  # of all pixels
_WHOLE = 1.4  # a whole picture has so many times less comb than its lines woven with those of the frame before
_ORDERED = 1.08  # fields of neighbouring moments woven have so many times less comb than those further apart
_COMBED = 0.8  # comb of an interlaced frame over that of neighbouring fields, at least
_REPEATED = 0.4  # change of a repeated field over that of the other, at most
_ENOUGH = 8  # frames with motion that agree
_DOUBTFUL = 24  # frames with motion, where they do not
CYCLE = 5  # frames of video that four frames of film fill
_PLAIN = ("yuv", "gray", "gbr", "nv12", "nv16", "nv24")  # pixel formats whose first plane is luma, or green
_TOP_FIRST, _BOTTOM_FIRST = (2, 5), (3, 4)  # AVFieldOrder: the field that is shown first


@dataclass
class Statistics:
    """What a run of frames shows of its fields.

    Each pair of frames is woven anew from a field of one and a field of the other. A whole picture has less comb than
    any of these. In interlaced video, the second field of a frame and the first of the next are neighbours in time, so
    one way of weaving them has less comb than the other. Only pixels that move count.

    Attributes:
        votes: Pairs of frames with motion, by what they show.
        repeats: For each frame, the field that is that of the frame before: ``"top"``, ``"bottom"`` or ``""``; None
            where nothing moves.

    Reference:
        FFmpeg's filter idet weaves and compares likewise.
    """

    votes: Counter[str] = field(default_factory=Counter)
    repeats: list[str | None] = field(default_factory=list)
    _before: NDArray[np.int16] | None = None

    def add(self, frame: av.VideoFrame) -> str:
        """Take the next frame and return what it shows: ``"progressive"``, ``"top"``, ``"bottom"`` or ``"unknown"``."""
        now, before = luma(frame), self._before
        self._before = now
        if before is None or before.shape != now.shape or len(now) < 8:
            self.repeats.append(None)
            return "unknown"
        change = np.abs(now - before)
        moving = np.maximum(np.maximum(change[:-2], change[2:]), change[1:-1]) > _MOVES
        if moving.mean() < _LEAST_MOTION:
            self.repeats.append(None)
            return "unknown"
        moved = change * (change > _MOVES)
        top, bottom = int(moved[::2].sum(dtype=np.int64)), int(moved[1::2].sum(dtype=np.int64))
        self.repeats.append("top" if top < _REPEATED * bottom else "bottom" if bottom < _REPEATED * top else "")
        vote = _vote(now, before, moving)
        self.votes[vote] += 1
        return vote

    def forget(self) -> None:
        """The next frame does not follow the last one."""
        self._before = None

    @property
    def settled(self) -> bool:
        """Whether more frames would hardly change the answer."""
        fields = self.votes["top"] + self.votes["bottom"]
        if not fields:
            return self.votes["progressive"] >= _ENOUGH
        return fields + self.votes["progressive"] >= _DOUBTFUL

    def scan(self, *, flagged: bool = False) -> Scan:
        """The answer so far; ``"top"`` and ``"bottom"`` name the field that is shown first.

        Args:
            flagged: Whether most frames are flagged as interlaced: fewer pairs have to show it then.
        """
        if self._is_film():
            return "film"
        progressive, top, bottom = (self.votes[name] for name in ("progressive", "top", "bottom"))
        more, fewer = max(top, bottom), min(top, bottom)
        if more >= 3 and more >= 3 * fewer and more >= (0.3 if flagged else 0.75) * (progressive + more):
            return "top" if top > bottom else "bottom"
        return "progressive" if progressive >= 3 else "unknown"

    def order(self) -> str | None:
        """The field that is shown first, by what most pairs show; None when none does."""
        top, bottom = self.votes["top"], self.votes["bottom"]
        return None if top == bottom else "top" if top > bottom else "bottom"

    def _is_film(self) -> bool:
        """Whether in every five frames one repeats its top field and another its bottom field (3:2 pulldown)."""
        places = {
            name: Counter(n % CYCLE for n, repeat in enumerate(self.repeats) if repeat == name)
            for name in ("top", "bottom")
        }
        if not all(places.values()):
            return False
        expected = {found.most_common(1)[0][0]: name for name, found in places.items()}
        known = [(expected.get(n % CYCLE, ""), repeat) for n, repeat in enumerate(self.repeats) if repeat is not None]
        right = sum(wanted == repeat for wanted, repeat in known)
        return len(expected) == 2 and len(known) >= 3 * CYCLE and right >= 0.85 * len(known)


def _vote(now: NDArray[np.int16], before: NDArray[np.int16], moving: NDArray[np.bool_]) -> str:
    whole = _comb(now, now, moving) + _comb(before, before, moving)
    old_into_new, new_into_old = _comb(now, before, moving), _comb(before, now, moving)
    # [even rows, odd rows]: an odd row of the frame before between even rows of this one is a pair of neighbours when
    # the top field comes first
    top_first = old_into_new[1] + new_into_old[0]
    bottom_first = old_into_new[0] + new_into_old[1]
    nearest, own = min(top_first, bottom_first), float(whole.sum()) / 2
    if own * _WHOLE < nearest:
        return "progressive"
    if max(top_first, bottom_first) > _ORDERED * nearest and own > _COMBED * nearest:
        return "top" if top_first < bottom_first else "bottom"
    return "unknown"


def _comb(outer: NDArray[np.int16], inner: NDArray[np.int16], moving: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How far rows of one picture lie from those of another above and below them: sums of even and of odd rows."""
    distance = np.abs(outer[:-2] + outer[2:] - 2 * inner[1:-1]) * moving
    return np.array([distance[1::2].sum(dtype=np.float64), distance[::2].sum(dtype=np.float64)])


def luma(frame: av.VideoFrame) -> NDArray[np.int16]:
    """Some columns of a frame's luma, 0 to 255, all rows."""
    if not frame.format.name.startswith(_PLAIN) or "f32" in frame.format.name:
        frame = frame.reformat(format="gray")
    bits = frame.format.components[0].bits
    plane = frame.planes[0]
    kind = np.dtype("u1" if bits == 8 else ">u2" if frame.format.is_big_endian else "<u2")
    rows: Any = np.frombuffer(memoryview(plane), kind).reshape(-1, plane.line_size // kind.itemsize)
    rows = rows[: frame.height, : frame.width : max(1, frame.width // _COLUMNS)]
    return (rows >> (bits - 8)).astype(np.int16)


def look(frames: Iterator[av.VideoFrame], *, most: int, most_bytes: int) -> tuple[list[av.VideoFrame], Statistics]:
    """Take frames until it is clear what they are.

    Args:
        frames: Decoded frames.
        most: How many are taken at most.
        most_bytes: How much memory they may fill, about.

    Returns:
        The frames taken, in order, and what they show.
    """
    taken: list[av.VideoFrame] = []
    statistics, room = Statistics(), most_bytes
    while len(taken) < most and room > 0 and not statistics.settled and (frame := next(frames, None)) is not None:
        taken.append(frame)
        room -= sum(plane.buffer_size for plane in frame.planes)
        statistics.add(frame)
    return taken, statistics


def flagged_order(field_order: int, codec: str) -> str:
    """The field that is shown first by the flags of a file: AVFieldOrder, and the habit of the codec without it."""
    if field_order in _BOTTOM_FIRST or (field_order not in _TOP_FIRST and codec == "dvvideo"):
        return "bottom"
    return "top"
