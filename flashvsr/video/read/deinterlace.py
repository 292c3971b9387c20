"""Fields to whole frames, through FFmpeg's filters; and what is to be done with a video at hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Literal, NamedTuple, get_args

import av
import numpy as np
from av.filter import Graph

from flashvsr.video.info import VideoError
from flashvsr.video.read.interlace import CYCLE, Statistics, flagged_order, look, luma

Deinterlace = Literal["auto", "off", "field", "frame", "film"]
_LOOK = 120  # frames at most
_LOOK_BYTES = 1 << 28
_WATCH = 50  # frames
_TICK = Fraction(1, 90_000)  # seconds: of the filters, which only pass times on
_FILM = Fraction(CYCLE - 1, CYCLE)


class Timed(NamedTuple):
    """A frame, and when it is shown.

    Attributes:
        frame: As FFmpeg has it.
        time: Seconds since the first frame.
    """

    frame: av.VideoFrame
    time: Fraction


@dataclass(frozen=True)
class Plan:
    """What is done with the fields of a video.

    Attributes:
        mode: ``"off"``; ``"field"``: a frame of each field; ``"frame"``: a frame of each frame; ``"film"``: 3:2
            pulldown is undone, four frames of film of five of video.
        first: The field that is shown first, ``"top"`` or ``"bottom"``.
        reason: What was found, as a line for the user; empty when there is nothing to say.
    """

    mode: Literal["off", "field", "frame", "film"] = "off"
    first: str = "top"
    reason: str = ""

    @property
    def rate(self) -> Fraction:
        """Frames that come out for each that goes in."""
        return {"field": Fraction(2), "film": _FILM}.get(self.mode, Fraction(1))

    @property
    def ticks(self) -> int:
        """Ticks of the times that come out in one of those that go in."""
        return {"field": 2, "film": CYCLE - 1}.get(self.mode, 1)


def plan(
    frames: Iterator[av.VideoFrame], wanted: Deinterlace, *, field_order: int, codec: str
) -> tuple[Plan, Iterator[av.VideoFrame]]:
    """Look at the first frames and decide.

    What the frames show counts, for flags lie both ways; where nothing moves, flags count.

    Args:
        frames: Decoded frames.
        wanted: ``"auto"``, or what the user wants.
        field_order: AVFieldOrder of the decoder.
        codec: Its name.

    Returns:
        The decision, and the frames from the first on.

    Raises:
        ValueError: If ``wanted`` is none of the above.
    """
    if wanted not in get_args(Deinterlace):
        raise ValueError(f"deinterlace={wanted!r}: expected one of {', '.join(get_args(Deinterlace))}")
    if wanted == "off":
        return Plan(), frames
    taken, statistics = look(frames, most=_LOOK, most_bytes=_LOOK_BYTES)
    rest = chain(taken, frames)
    flagged = 2 * sum(frame.interlaced_frame for frame in taken) > len(taken)
    first = statistics.order() or flagged_order(field_order, codec)
    if wanted != "auto":
        return Plan(wanted, first), rest
    scan = statistics.scan(flagged=flagged)
    if scan == "film" and _takes_film(taken[0]):
        reason = "film in interlaced video (3:2 pulldown), undone: four frames of five; --deinterlace off keeps all"
        return Plan("film", first, reason), rest
    if scan in ("top", "bottom", "film") or (scan == "unknown" and flagged):
        by = "by its flags" if scan == "unknown" else "as its frames show"
        reason = (
            f"interlaced {by}, {first} field first: each field becomes a frame, twice as many;"
            " --deinterlace frame keeps their number, off the fields"
        )
        return Plan("field", first, reason), rest
    lie = "flagged as interlaced, but its frames are whole: left as they are; --deinterlace field does not believe that"
    return Plan(reason=lie if flagged else ""), rest


def deinterlace(frames: Iterator[Timed], plan: Plan, name: str) -> Iterator[Timed]:
    """Whole frames, and when they are shown.

    Args:
        frames: From a decoder.
        plan: What to do; `Plan.mode` is not ``"off"``.
        name: Of the video, for messages.

    Raises:
        VideoError: If the size changes.
    """
    filtered = _filtered(frames, plan, name)
    return _without_repeats(filtered) if plan.mode == "film" else filtered


def watch(frames: Iterator[Timed], name: str, warnings: list[str]) -> Iterator[Timed]:
    """Pass frames on as they are, and look at two in fifty: a recording may begin whole and go on in fields.

    Args:
        frames: From a decoder.
        name: Of the video, for messages.
        warnings: Where a line is added at the end if so.
    """
    statistics, found = Statistics(), Fraction(0)
    for number, timed in enumerate(frames):
        if number % _WATCH == 0:
            statistics.forget()
        if number % _WATCH < 2 and statistics.add(timed.frame) in ("top", "bottom") and not found:
            found = timed.time
        yield timed
    if statistics.scan() in ("top", "bottom"):
        warnings.append(f"{name} looks interlaced at {float(found):.2f} s and later: try --deinterlace field")


def _takes_film(frame: av.VideoFrame) -> bool:
    """Whether the filter that finds the fields of film keeps this pixel format."""
    return frame.format.components[0].bits == 8 and frame.format.name.startswith(("yuv4", "yuvj4"))


def _filtered(frames: Iterator[Timed], plan: Plan, name: str) -> Iterator[Timed]:
    """Frames through the filters: one or two for each."""
    each = 2 if plan.mode == "field" else 1
    times: deque[Fraction] = deque()  # of the frames in the filters
    given, step = 0, Fraction(1, 25)
    graph: Graph | None = None
    shape: tuple[int, int, str] | None = None

    def pull() -> Iterator[Timed]:
        nonlocal given
        while graph is not None:
            try:
                frame = graph.vpull()
            except (BlockingIOError, EOFError):
                return
            second, given = given % each, given + 1
            whole = times[1] - times[0] if len(times) > 1 else step
            yield Timed(frame, times[0] + second * whole / 2)
            if given % each == 0:
                times.popleft()

    for frame, time in frames:
        seen = (frame.width, frame.height, frame.format.name)
        if graph is None:
            graph, shape = _graph(frame, plan), seen
        if seen != shape:
            raise VideoError(
                f"{name} changes size or pixel format at {float(time):.2f} s, where it is deinterlaced\n"
                "cut it there and upscale each part on its own, or use --deinterlace off"
            )
        step = time - times[-1] if times else step
        times.append(time)
        frame.pts, frame.time_base = round(time / _TICK), _TICK
        graph.vpush(frame)
        yield from pull()
    if graph is not None:
        graph.vpush(None)
        yield from pull()


def _graph(frame: av.VideoFrame, plan: Plan) -> Graph:
    parity = {"top": "tff", "bottom": "bff"}[plan.first]
    filters = [("bwdif", f"mode=send_{'field' if plan.mode == 'field' else 'frame'}:parity={parity}:deint=all")]
    if plan.mode == "film":  # frames whose fields found no partner stay interlaced
        filters = [("fieldmatch", f"order={parity}:combmatch=full")]
        filters += [("bwdif", f"mode=send_frame:parity={parity}:deint=interlaced")]
    graph = Graph()
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TICK, name="in")
    for filter, arguments in [*filters, ("buffersink", None)]:
        following = graph.add(filter, arguments)
        last.link_to(following)
        last = following
    graph.configure()
    return graph


def _without_repeats(frames: Iterator[Timed]) -> Iterator[Timed]:
    """Of five frames the one that differs least from the one before is dropped; the others share its time."""
    cycle: list[Timed] = []
    changes: list[float] = []
    before: np.ndarray | None = None
    for timed in frames:
        if len(cycle) == CYCLE:
            yield from _four(cycle, changes, timed.time)
            cycle, changes = [], []
        now = luma(timed.frame)
        changes.append(float("inf") if before is None else float(np.abs(now - before).mean()))
        cycle.append(timed)
        before = now
    if len(cycle) == CYCLE:
        step = cycle[-1].time - cycle[-2].time
        yield from _four(cycle, changes, cycle[-1].time + step)
    else:
        yield from cycle


def _four(cycle: list[Timed], changes: list[float], end: Fraction) -> Iterator[Timed]:
    dropped = changes.index(min(changes))
    kept = [timed.frame for number, timed in enumerate(cycle) if number != dropped]
    begin = cycle[0].time
    for number, frame in enumerate(kept):
        yield Timed(frame, begin + number * (end - begin) / len(kept))
