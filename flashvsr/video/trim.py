"""The part of a video that is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from flashvsr.video.info import VideoError


@dataclass(frozen=True)
class Trim:
    """The frames that are shown first from ``start`` on and before ``end``.

    Attributes:
        start: Seconds since the first frame of the video.
        end: The same; None is the end of the video.

    Raises:
        VideoError: If no time lies between.
    """

    start: Fraction = Fraction(0)
    end: Fraction | None = None

    def __post_init__(self) -> None:
        if self.start < 0:
            raise VideoError(f"the start {float(self.start):g} s is before the video\nexpected 0 or more")
        if self.end is not None and self.end <= self.start:
            raise VideoError(
                f"nothing lies between the start {float(self.start):g} s and the end {float(self.end):g} s\n"
                "both count from the first frame of the video; let the end be later"
            )

    def numbers(self, rate: Fraction, count: int, source: str) -> range:
        """Which frames are wanted of a video of one rate.

        Args:
            rate: Frames per second.
            count: How many there are.
            source: Its name, for messages.

        Raises:
            VideoError: If there are none.
        """
        stop = count if self.end is None else min(count, ceil(self.end * rate))
        wanted = range(ceil(self.start * rate), stop)
        if not wanted:
            raise VideoError(self.too_late(source, count / rate))
        return wanted

    def too_late(self, source: str, length: Fraction) -> str:
        """The message for a video that ends before the start."""
        return f"{source} ends at {float(length):.2f} s\nlet the start, {float(self.start):g} s, be before that"


WHOLE = Trim()
