"""Timestamps as files hold them, made exact and strictly increasing; and those of an output."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


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

    def shift(self, track: int, time: Fraction, duration: Fraction) -> Fraction:
        """Seconds to add to the times of the next packet of sound or picture.

        Args:
            track: Its number.
            time: When it is decoded, in seconds.
            duration: In seconds; 0 when unknown.
        """
        place = self._places.get(track)
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
        if later and later[best] < min(abs(gap), 10) and abs(gap) > Fraction(1, 10):
            return best
        if gap + place.step < -self._back or (self._restarts and gap > max(10, 2 * place.step)):
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
