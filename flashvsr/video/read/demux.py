"""Packets of video files and pipes, read through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import av

from flashvsr.video.info import VideoError, file_url, plain_errors
from flashvsr.video.picture.crop import UNALIGNED
from flashvsr.video.tags import LENIENT
from flashvsr.video.timing import Joins

_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS: raw H.264, HEVC and the like
_AS_NAMED = {"pattern_type": "none"}  # a picture called a%d.png is not a series
_CLOCK_RESTARTS = 0x200  # AVFMT_TS_DISCONT: MPEG transport and program streams, Ogg and the like
_EXACT = ("mov", "matroska")  # containers with an index of key frames, and a time for each frame
_OVERHEAD = 100  # bytes between two packets of Matroska at most, unless something is skipped there


class Demuxer:
    """An open file or stdin: which of its tracks is the picture, and the packets of all.

    The picture is the first video track that is not a cover.

    Args:
        source: A path, or ``"-"``.

    Attributes:
        source: As given.
        name: What to call it in messages.
        container: As PyAV opened it.
        stream: The picture.
        raw: Whether packets have no times.
        enters: Whether it can be read from its middle, with the times that it has when it is read from the beginning.
        joins: What puts joined recordings on one clock.
        seen_end: Latest end of any packet so far, on the file's clock, in seconds.
        gaps: Whether bytes of Matroska lie between packets that are of none.

    Raises:
        VideoError: If it is missing, empty or no video, or has no picture.
    """

    live = False
    """Whether what is damaged is left out, and the clock may start anew."""

    def __init__(self, source: str) -> None:
        self.source, self.name = source, "stdin" if source == "-" else source
        self.container = self._open(source)
        try:
            self.stream = self._first_picture()
        except BaseException:
            self.close()
            raise
        flags = self.container.format.flags
        self.raw = bool(flags & _NO_TIMESTAMPS)
        self._restarts = self.live or bool(flags & _CLOCK_RESTARTS)
        self.joins = Joins(restarts=self._restarts)
        exact = self.container.format.name.split(",")[0] in _EXACT and self.stream.codec_context.name != "theora"
        self.enters = exact and not self.live and not is_pipe(source)
        self.seen_end = Fraction(0)
        self.gaps = False
        self._read_end: int | None = None  # where the last packet ends, in bytes

    def packets(self) -> Iterator[Any]:
        """All packets, on one clock where recordings were joined; None where the decoder is to be emptied."""
        for packet in self._packets():
            if packet is None:
                yield None
                continue
            self._note(packet)
            if not self.raw and (packet.pts is not None or packet.dts is not None):
                time = None if packet.dts is None else packet.dts * packet.time_base
                if packet.stream.type in ("video", "audio"):
                    duration = (packet.duration or 0) * packet.time_base
                    shift = self.joins.shift(packet.stream.index, time, duration)
                else:
                    shift = self.joins.nearest(packet.pts * packet.time_base if time is None else time)
                ticks = round(shift / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
            yield packet

    def enter(self, time: Fraction) -> None:
        """Go on at the last key frame that is decoded before this time of the file's own clock, in seconds."""
        self.container.seek(floor(time / self.stream.time_base), stream=self.stream)
        self.joins, self._read_end = Joins(restarts=self._restarts), None

    def other_streams(self) -> list[Any]:
        """The tracks beside the picture, without the texts of MP4's chapters."""
        others = [stream for stream in self.container.streams if stream is not self.stream]
        return [stream for stream in others if stream.discard != av.stream.Discard.all]

    def promised_end(self) -> Fraction | None:
        """When the file says that it ends, on its own clock in seconds; None when it does not say."""
        stream, container = self.stream, self.container
        if stream.duration is not None and not container.format.name.startswith("matroska"):
            return (stream.duration + (stream.start_time or 0)) * stream.time_base
        if container.duration is not None:
            # Matroska counts its duration from 0, not from the first packet, and has none of tracks
            return Fraction(container.duration, av.time_base)
        return None

    def hides_its_sound(self) -> bool:
        """Whether no audio track of an MP4 is one to be played."""
        default = int(av.stream.Disposition.default)
        sounds = list(self.container.streams.audio)
        mp4 = "mp4" in self.container.format.name.split(",")
        return mp4 and bool(sounds) and not any(int(stream.disposition) & default for stream in sounds)

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def _open(self, source: str) -> Any:
        if source != "-":
            path = Path(source)
            if not path.exists():
                raise VideoError(f"{source}: no such file\ncheck the name; 'example:' is a built-in clip to try")
            if path.is_file() and path.stat().st_size == 0:
                raise VideoError(f"{source} is empty (0 bytes)\nexpected a video file")
        with plain_errors(f"cannot read {self.name} as video", "it is not a video, or its beginning or end is missing"):
            return av.open("pipe:0" if source == "-" else file_url(source), "r", options=_AS_NAMED, **LENIENT)

    def _first_picture(self) -> Any:
        for candidate in self.container.streams.video:
            if not int(candidate.disposition) & int(av.stream.Disposition.attached_pic):
                stream = self._moving(candidate)
                if stream.codec_context is None:
                    raise VideoError(
                        f"{self.name}: its video codec is unknown to this build of FFmpeg\nconvert it first"
                    )
                # empty packets stand for frames that Theora repeats: threads must not delay those before
                stream.thread_type = "SLICE" if stream.codec_context.name == "theora" else "AUTO"
                stream.codec_context.flags |= UNALIGNED
                return stream
        kinds = ", ".join(sorted({str(stream.type) for stream in self.container.streams})) or "nothing"
        raise VideoError(f"{self.name} has no video stream, only {kinds}\nexpected a file with a picture")

    def _moving(self, first: Any) -> Any:
        """The sequence of an animated AVIF or HEIF, whose first track is a still picture of it."""
        longer = [stream for stream in self.container.streams.video if stream.frames > 1]
        still = first.frames == 1 and first.duration is None
        return longer[0] if still and longer else first

    def _packets(self) -> Iterator[Any]:
        """Packets as FFmpeg has them."""
        yield from self.container.demux()

    def _note(self, packet: Any) -> None:
        if packet.pts is not None and packet.time_base:
            self.seen_end = max(self.seen_end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if packet.pos is not None and packet.pos >= 0 and self.container.format.name.startswith("matroska"):
            self.gaps |= self._read_end is not None and packet.pos > self._read_end + _OVERHEAD
            self._read_end = packet.pos + packet.size


def is_pipe(source: str | Path) -> bool:
    """Whether an input passes only once: ``"-"``, a FIFO, a process substitution, a device."""
    path = Path(source)
    return str(source) == "-" or (path.exists() and not path.is_file() and not path.is_dir())
