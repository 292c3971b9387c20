"""Timestamps as files hold them, made exact and strictly increasing; and those of an output."""

from __future__ import annotations

from fractions import Fraction


class Clock:
    """Ticks since the first frame, strictly increasing, from timestamps that may be missing or wrong.

    * The first frame is tick 0 wherever its file starts counting.
    * A frame without a timestamp comes one frame duration after the one before.
    * A frame whose time is not later than the one before (a repeated timestamp) is moved to one tick after it.
    * A jump back by more than a second is a new start (joined recordings): it and all that follow are shifted to go
      on one frame duration after the frame before. ``jumps`` counts these.

    Gaps and variable frame rates are kept as they are.

    Args:
        time_base: Seconds per tick.
        frame_rate: Frames per second, for the frame duration; None counts as 25.
    """

    def __init__(self, time_base: Fraction, frame_rate: Fraction | None) -> None:
        self.time_base = time_base
        self.jumps = 0
        self._duration = max(1, round(1 / ((frame_rate or 25) * time_base)))
        self._second = int(1 / time_base)
        self._origin: int | None = None
        self._last: int | None = None

    def tick(self, pts: int | None) -> int:
        """The tick of the next frame, from its timestamp in ``time_base`` units (None: it has none)."""
        if self._last is None or self._origin is None:
            self._origin, self._last = pts or 0, 0
            return 0
        tick = self._last + self._duration if pts is None else pts - self._origin
        if tick < self._last - self._second:
            self.jumps += 1
            self._origin -= self._last + self._duration - tick
            tick = self._last + self._duration
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
