"""Timestamps as files hold them, made exact and strictly increasing; and those of an output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

_MOST_AHEAD = 20  # frames by which an encoder reorders at most


class Joins:
    """Shifts that put packets of joined recordings, whose clock jumps where they were joined, on one clock.

    Where the clock of sound or picture jumps, what follows goes on where its track had ended. The others follow when
    they jump too: all that belongs to one recording is shifted alike, so it stays in sync. A jump is

    * back by more than a second, or by more than a tenth of one where clocks restart;
    * where clocks restart, forward by more than ten seconds and more than twice what lay between the packets before.
      Elsewhere a gap is a gap.

    Args:
        restarts: Whether the format's clock may restart, as in MPEG transport and program streams.
    """

    def __init__(self, *, restarts: bool) -> None:
        self._restarts = restarts
        self._back = Fraction(1, 10) if restarts else Fraction(1)
        self._shifts = [Fraction(0)]
        self._places: dict[int, _Place] = {}
        self._now = Fraction(0)

    @property
    def count(self) -> int:
        """Jumps so far."""
        return len(self._shifts) - 1

    def shift(self, track: int, time: Fraction | None, duration: Fraction) -> Fraction:
        """Seconds to add to the times of the next packet of sound or picture.

        Args:
            track: Its number.
            time: When it is decoded, in seconds; None when the file does not say, as often at the start of Matroska.
            duration: In seconds; 0 when unknown.
        """
        place = self._places.get(track)
        if time is None:
            return self._shifts[place.recording if place is not None else -1]
        if place is None:
            place = self._places[track] = _Place(self.count, time + self._shifts[-1], time + self._shifts[-1])
        else:
            place.recording = self._recording(place, time)
        shifted = time + self._shifts[place.recording]
        place.step = duration or max(Fraction(0), shifted - place.last)
        place.last, place.following = shifted, shifted + place.step
        self._now = shifted
        return self._shifts[place.recording]

    def nearest(self, time: Fraction) -> Fraction:
        """Seconds to add to the times of a packet of subtitles, which come now and then."""
        return min(self._shifts, key=lambda shift: abs(time + shift - self._now))

    def _recording(self, place: _Place, time: Fraction) -> int:
        """Number of the recording that the next packet of a track is of."""
        gap = time + self._shifts[place.recording] - place.following
        later = {n: abs(time + self._shifts[n] - place.following) for n in range(place.recording + 1, self.count + 1)}
        best = min(later, key=lambda number: later[number], default=place.recording)
        if later and later[best] < min(abs(gap), Fraction(10)) and abs(gap) > Fraction(1, 10):
            return best
        if gap + place.step < -self._back or (self._restarts and gap > max(Fraction(10), 2 * place.step)):
            self._shifts.append(place.following - time)
            return self.count
        return place.recording


@dataclass
class _Place:
    """Where a track has come.

    Attributes:
        recording: Number of the recording, from 0.
        last: When the last packet is decoded, shifted, in seconds.
        following: When the next one should be.
        step: Between the two.
    """

    recording: int
    last: Fraction
    following: Fraction
    step: Fraction = Fraction(0)


class Clock:
    """Ticks since the first frame, strictly increasing, from timestamps that may be missing or wrong.

    * The first frame is tick 0 wherever its file starts counting.
    * A frame without a timestamp comes one frame duration after the one before.
    * A frame whose time is not later than the one before (a repeated timestamp) is moved to one tick after it.

    Gaps and variable frame rates are kept as they are.

    Args:
        time_base: Seconds per tick.
        frame_rate: Frames per second, for the frame duration; None counts as 25.
    """

    def __init__(self, time_base: Fraction, frame_rate: Fraction | None) -> None:
        self.time_base = time_base
        self._duration = max(1, round(1 / ((frame_rate or 25) * time_base)))
        self._origin: int | None = None
        self._last: int | None = None

    def enter(self, origin: int) -> None:
        """The next frame may be any of a file whose first one has the timestamp ``origin``."""
        self._origin, self._last = origin, -1

    def tick(self, pts: int | None) -> int:
        """The tick of the next frame, from its timestamp in ``time_base`` units (None: it has none)."""
        if self._last is None or self._origin is None:
            self._origin, self._last = pts or 0, 0
            return 0
        tick = self._last + self._duration if pts is None else pts - self._origin
        self._last = max(tick, self._last + 1)
        return self._last


class Ticks:
    """Times of output frames on the clock of their container, strictly increasing.

    Containers such as Y4M, AVI and raw streams hold a frame rate and no times: their clock ticks once per frame.

    Args:
        time_base: Seconds per tick.
    """

    def __init__(self, time_base: Fraction) -> None:
        self.time_base = time_base
        self._last = -1
        self._strayed = Fraction(0)

    def tick(self, time: Fraction) -> int:
        """The tick nearest to ``time`` (seconds) that is later than the one before."""
        exact = time / self.time_base
        self._last = max(round(exact), self._last + 1)
        self._strayed = max(self._strayed, abs(self._last - exact))
        return self._last

    def warnings(self, format: str) -> list[str]:
        """A line when times of frames were moved by more than a tick; ``format`` is the container's name."""
        if self._strayed <= 1:
            return []
        moved = float(self._strayed * self.time_base)
        return [f"{format} cannot hold the times of these frames: moved by up to {moved:.3g} s"]


class DecodingTimes:
    """Decoding times for packets of an encoder, strictly increasing and not after the presentation times.

    Encoders that reorder frames begin to decode as long before the first frame as later ones lie apart, hours when
    these are slow. Here the first packets come right before the first frame, at most 1/25 s apart.

    Args:
        time_base: Seconds per tick.
    """

    def __init__(self, time_base: Fraction) -> None:
        self._time_base = time_base
        self._shown: list[int] = []  # presentation times of the first frames, in their order
        self._given = 0
        self._ahead: int | None = None

    def note(self, pts: int) -> None:
        """Tell of a frame that goes into the encoder."""
        if self._given <= _MOST_AHEAD:
            self._shown.append(pts)

    def of(self, pts: int, dts: int | None) -> int:
        """The decoding time of the next packet.

        Args:
            pts: Its presentation time.
            dts: Its decoding time as the encoder has it; None or nonsense when it has none, as x265 for the shortest.
        """
        first = self._shown[0]
        farthest = self._shown[-1] - first + round(1 / self._time_base)
        dts = pts if dts is None or not first - farthest <= dts <= pts else dts
        if self._ahead is None:
            lead = first - dts
            self._ahead = next((n for n, time in enumerate(self._shown) if time - first == lead), 0)
        number, self._given = self._given, self._given + 1
        if number >= self._ahead:
            return dts
        return before_the_first(self._shown, self._ahead - number, self._time_base)


def before_the_first(shown: Sequence[int], count: int, time_base: Fraction) -> int:
    """The decoding time of the packet that comes ``count`` packets before that of the time of the first frame."""
    gaps = [b - a for a, b in pairwise(shown[: _MOST_AHEAD + 1])]
    return shown[0] - count * max(1, min([*gaps, round(1 / (25 * time_base))]))


def last_to_add(first: tuple[int, int], dts: int, end: int) -> int:
    """The duration of the last packet with which all together are as long as the clip.

    Args:
        first: Presentation and decoding time of the first packet.
        dts: Decoding time of the last.
        end: When the last frame ends.
    """
    return max(1, end - first[0] - (dts - first[1]))
