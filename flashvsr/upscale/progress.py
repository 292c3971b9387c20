"""How a run shows where it is: a bar on a terminal, a line now and then in a log, or nothing.

Everything goes to stderr, because stdout may be the video.
"""

from __future__ import annotations

import sys
import time
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY = 10.0  # seconds between two lines of a log


class Reporter(Protocol):
    """What a run reports while it works: a context manager, which removes its bar on every exit."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None: ...

    def start(self, done: int, total: int | None) -> None:
        """Begin at ``done`` frames (more than 0 after a resume) of about ``total`` (None: unknown)."""

    def update(self, done: int) -> None:
        """Say that ``done`` frames are finished."""

    def line(self, text: str) -> None:
        """Say one line."""


class Silent:
    """Says nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        pass

    def start(self, done: int, total: int | None) -> None:
        """Ignored."""

    def update(self, done: int) -> None:
        """Ignored."""

    def line(self, text: str) -> None:
        """Ignored."""


class Lines(Silent):
    """One plain line about every ten seconds, for logs and pipes."""

    def start(self, done: int, total: int | None) -> None:
        """Start the clock; the speed counts only the frames of this run."""
        self._first, self._total = done, total
        self._begin = self._spoken = time.monotonic()

    def update(self, done: int) -> None:
        """Print frames, speed and the time left, unless the last line is younger than ten seconds."""
        now = time.monotonic()
        if now - self._spoken < LINE_EVERY or done == self._first:
            return
        self._spoken = now
        speed = (done - self._first) / (now - self._begin)
        text = f"{done}/{self._total or '?'} frames, {speed:.2f} fps"
        if self._total and self._total > done:
            text += f", about {duration((self._total - done) / speed)} left"
        self.line(text)

    def line(self, text: str) -> None:
        """Print it on stderr."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class Bar:
    """A rich progress bar: frames, frames per second, time elapsed and left."""

    def __init__(self) -> None:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("frames"),
            TextColumn("{task.fields[fps]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        # The model delivers several frames at once, seconds apart: a short memory would make the estimate jump.
        self._bar = Progress(*columns, console=Console(stderr=True, highlight=False), speed_estimate_period=300)
        self._task = self._bar.add_task("", total=None, fps="")
        self._first, self._begin, self._started = 0, time.monotonic(), False

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._bar.live.transient = not self._started  # a bar that counted nothing does not stay
        self._bar.stop()

    def start(self, done: int, total: int | None) -> None:
        """Show the bar at ``done`` of ``total``; the speed counts only the frames of this run."""
        self._first, self._begin, self._started = done, time.monotonic(), True
        self._bar.update(self._task, completed=done, total=total)

    def update(self, done: int) -> None:
        """Move the bar."""
        speed = (done - self._first) / max(time.monotonic() - self._begin, 1e-9)
        self._bar.update(self._task, completed=done, fps=f"{speed:.2f} fps")

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, soft_wrap=True)


def reporter(*, quiet: bool) -> Reporter:
    """The bar when stderr is a terminal, lines when it is not, nothing when ``quiet``."""
    if quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()


def duration(seconds: float) -> str:
    """A length of time as people say it: ``"42 s"``, ``"3 min 5 s"``, ``"2 h 10 min"``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def frame_count(frames: int) -> str:
    """A number of frames as people say it: ``"1 frame"``, ``"24 frames"``."""
    return f"{frames} frame{'' if frames == 1 else 's'}"


def size(count: int) -> str:
    """A number of bytes as people say it: ``"812 B"``, ``"12.3 MB"``; 1 MB is 1e6 bytes."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
