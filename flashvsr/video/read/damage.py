"""What a file states of its length and does not hold."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from flashvsr.video.info import VideoError
from flashvsr.video.read.asf import asf_length
from flashvsr.video.read.demux import Demuxer

_TOLERANCE = Fraction(1, 4)  # seconds by which a file may end before the length that it states


class Damage:
    """What is missing or damaged of a file, found while it is read.

    Args:
        demuxer: The open file.
        rate: Frames per second; None when unknown.

    Attributes:
        frames: Frames decoded.
        time: Of the last one, in seconds since the first.
    """

    def __init__(self, demuxer: Demuxer, rate: Fraction | None) -> None:
        self._demuxer, self._rate = demuxer, rate
        self._damaged_at: Fraction | None = None
        self._missing = 0  # frames that the times have room for
        self._entered = False
        self.frames, self.time = 0, Fraction(0)

    def enter(self) -> None:
        """The next frame may be any of the file: none are missing before it."""
        self._entered = True

    def note_packet(self, packet: Any) -> None:
        """Take note of a packet of the picture before it is decoded."""
        if packet.is_corrupt and self._damaged_at is None:
            self._damaged_at = self.time

    def note_frame(self, time: Fraction) -> None:
        """Take note of a frame that was decoded, and of its time in seconds since the first."""
        if self.frames and self._rate and not self._entered:
            self._missing += max(0, round((time - self.time) * self._rate) - 1)
        self.frames, self.time, self._entered = self.frames + 1, time, False

    def at_the_end(self) -> list[str]:
        """Warnings, one line each, when all is read. A live stream promises no end and has none.

        Raises:
            VideoError: If a file ends long before the end that it states.
        """
        if self._demuxer.live:
            return []
        warnings = self._of_the_end()
        name, joins = self._demuxer.name, self._demuxer.joins.count
        if self._damaged_at is not None:
            warnings.append(f"{name} is damaged near {float(self._damaged_at):.2f} s: frames there may be wrong")
        warnings += self._of_the_count()
        if joins:
            warnings.append(f"{name}: its clock jumps ({joins}x): its recordings are played one after another")
        return warnings

    def _of_the_end(self) -> list[str]:
        name, promised = self._demuxer.name, self._demuxer.promised_end()
        format = self._demuxer.container.format.name.split(",")[0]
        if format == "asf":
            promised = asf_length(Path(name))
        if promised is None or self._demuxer.seen_end >= promised - _TOLERANCE:
            return []
        cut_off = (
            f"{name} is cut off: it ends after {self.frames} frames, at {float(self.time):.2f} s"
            f" of {float(promised):.2f} s"
        )
        if format in ("matroska", "mov"):
            raise VideoError(f"{cut_off}\nget the whole file, or re-mux what there is to its true length")
        return [cut_off] if format in ("flv", "asf") else []  # live recordings may state a wrong length

    def _of_the_count(self) -> list[str]:
        """Frames that are missing, where the file states how many it has or how long it is."""
        stream, avi = self._demuxer.stream, self._demuxer.container.format.name == "avi"
        missing = stream.frames - self.frames if avi and stream.frames else 0
        if missing <= 0 and (self._demuxer.gaps or self._damaged_at is not None):  # else a pause is a pause
            missing = self._missing
        if missing <= 0:
            return []
        seconds = f" ({float(missing / self._rate):.2f} s)" if self._rate else ""
        return [
            f"{self._demuxer.name} is damaged: {missing} of its {self.frames + missing} frames{seconds} are missing"
        ]
