"""Audio and subtitle packets on their way from one file into another, never decoded."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction
from math import ceil
from typing import Any

import av

from flashvsr.video.info import Track
from flashvsr.video.tags import Tags, track_tags

_EQUAL_TIMES = 0x20000  # AVFMT_TS_NONSTRICT: packets of a track may have the same time
_COPIED = ("audio", "subtitle", "attachment")
# What FFmpeg's muxers hold by a name that players know. They take everything, and call the rest private data.
_KNOWN_TO = {
    "mpegts": (
        *(
            "mpeg1video",
            "mpeg2video",
            "mpeg4",
            "h264",
            "hevc",
            "vvc",
            "cavs",
            "avs2",
            "avs3",
            "dirac",
            "vc1",
            "jpeg2000",
        ),
        *("mp1", "mp2", "mp3", "aac", "aac_latm", "ac3", "eac3", "ac4", "dts", "truehd", "opus", "s302m"),
        *("dvb_subtitle", "dvb_teletext", "hdmv_pgs_subtitle"),
    )
}
_LAYOUTS = {"1 channels": "mono", "2 channels": "stereo"}  # of files that only count: MP4 does not take such
_UNREADABLE = {"nut": ("wmav1", "wmav2", "wmapro", "wmavoice")}  # NUT drops what their decoders must know


def describe_track(stream: Any) -> Track:
    """Summary of a stream of PyAV."""
    codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
    return Track(stream.index, str(stream.type), codec, stream.metadata.get("language"))


class TrackQueue:
    """Packets of the tracks beside the picture, in file order, waiting to be written.

    A reader fills it while it demuxes; nothing is kept until a `TrackCopier` has said which tracks it wants, except for
    the few packets that precede the first frame. So memory holds only the packets between reading and writing.

    Args:
        streams: PyAV streams of the input that are not its picture.
        tags: What the input says about itself.
    """

    def __init__(self, streams: Sequence[Any], tags: Tags | None = None) -> None:
        self.streams = list(streams)
        self.tags = tags or Tags()
        self.origin = Fraction(0)
        """Time of the first frame on the file's own clock, in seconds."""
        self._start: Fraction | None = None
        self._end: Fraction | None = None
        self._wanted: set[int] | None = None
        self._packets: deque[Any] = deque()
        self._starts = {
            stream.index: stream.start_time * stream.time_base
            for stream in streams
            if stream.type == "audio" and stream.start_time is not None
        }

    def cut(self, start: Fraction | None, end: Fraction | None) -> None:
        """Keep what is played between two times of the file's own clock, in seconds; None for its start or end."""
        self._start, self._end = start, end
        if start is not None:
            self._starts = {}  # the sound begins with the picture
        waiting, self._packets = self._packets, deque()
        for packet in waiting:
            self.push(packet)

    def close(self) -> None:
        """The file is closed: let go of its streams, which must not be touched any more. Packets stay."""
        self.streams = []

    def want(self, indices: set[int]) -> None:
        """Keep the packets of these streams from now on, and drop the others."""
        self._wanted = indices
        self._packets = deque(packet for packet in self._packets if packet.stream_index in indices)

    def settle(self) -> None:
        """Reading goes on: if no `TrackCopier` has asked for tracks by now, keep none."""
        if self._wanted is None:
            self.want(set())

    def push(self, packet: Any) -> None:
        """Take a packet from the demuxer."""
        if packet.dts is None and packet.pts is None:
            return  # the empty packet at the end of a file
        if (self._wanted is None or packet.stream_index in self._wanted) and self._is_inside(packet):
            self._packets.append(packet)

    def _is_inside(self, packet: Any) -> bool:
        """Whether a packet begins in the part that is wanted; one of subtitles that is shown there is cut to it."""
        if self._start is None and self._end is None:
            return True
        unit = packet.time_base
        time = (packet.dts if packet.pts is None else packet.pts) * unit
        ends = time + (packet.duration or 0) * unit
        if self._start is not None and time < self._start:
            if packet.stream.type != "subtitle" or ends <= self._start:
                return False
            packet.pts = packet.dts = ceil(self._start / unit)
            packet.duration = round(ends / unit) - packet.pts
        if self._end is None or ends <= self._end:
            return True
        if packet.stream.type == "subtitle" and time < self._end:
            packet.duration = round(self._end / unit) - packet.pts
        return time < self._end

    def pop(self) -> Any | None:
        """The next packet in file order, None when none is waiting."""
        return self._packets.popleft() if self._packets else None

    def lead(self, indices: set[int]) -> Fraction:
        """Seconds by which the earliest of these audio tracks starts before the first frame, at least 0."""
        starts = [start for index, start in self._starts.items() if index in indices]
        return max(Fraction(0), self.origin - min(starts, default=self.origin))


class TrackCopier:
    """Adds the tracks and tags of a queue to an output container and muxes their packets in step with the picture.

    Sync is kept to the first *frame*: what the source plays with it, the result plays with it. When the audio starts
    earlier, the picture of the result starts ``lead`` seconds in and no sound is lost.

    Args:
        container: The output with its picture added, before its header is written.
        queue: Where packets come from.
        pull: Gives the next packet, or None when there is none for now; ``queue.pop`` unless something else demuxes.

    Attributes:
        lead: Seconds to add to every time of the picture.
        warnings: One line per track that is not copied.
    """

    def __init__(self, container: Any, queue: TrackQueue, pull: Callable[[], Any | None] | None = None) -> None:
        self._container = container
        self._pull = pull or queue.pop
        self._pending: Any | None = None
        self._targets: dict[int, Any] = {}
        self._last_dts: dict[int, int] = {}
        self._equal_times = bool(container.format.flags & _EQUAL_TIMES)
        self.warnings: list[str] = []
        for stream in queue.streams:
            if not (queue.tags.has_timecode and "timecode" in stream.metadata):  # which is written as a tag
                self._add(stream)
        queue.want(set(self._targets))
        self.lead = queue.lead(set(self._targets))
        self._shift = self.lead - queue.origin
        queue.tags.write(container, self._shift)

    def advance(self, time: Fraction | None) -> None:
        """Mux all waiting packets up to this time of the output (seconds), all of them for None."""
        while True:
            packet = self._pending if self._pending is not None else self._pull()
            self._pending = None
            if packet is None:
                return
            stamp = packet.dts if packet.dts is not None else packet.pts
            if time is not None and stamp * packet.time_base + self._shift > time:
                self._pending = packet
                return
            self._mux(packet, stamp)

    def _add(self, stream: Any) -> None:
        name = f"{stream.type} track {stream.index} ({describe_track(stream).codec})"
        if stream.type not in _COPIED:
            self.warnings.append(f"{name} is not copied: only sound, subtitles and fonts are")
        elif not _takes(self._container, stream):
            self.warnings.append(
                f"{name} is not copied: {self._container.format.name} does not take it without re-encoding"
            )
        else:
            self._targets[stream.index] = _add_copy(self._container, stream)

    def _mux(self, packet: Any, stamp: int) -> None:
        target = self._targets[packet.stream_index]  # packet.stream is gone when the reader has closed the file
        # On the output's own clock, which is often the finer one: equal times (TrueHD has 1.2 packets per millisecond
        # of Matroska) are moved apart by a tick where a container refuses them, and the packets after lie right again.
        unit = target.time_base
        dts = round((stamp * packet.time_base + self._shift) / unit)
        pts = dts if packet.pts is None else round((packet.pts * packet.time_base + self._shift) / unit)
        last = self._last_dts.get(target.index)
        if last is not None:
            dts = max(dts, last if self._equal_times or target.type == "subtitle" else last + 1)
        self._last_dts[target.index] = dts
        duration = round((packet.duration or 0) * packet.time_base / unit)
        if not duration and last is not None and target.type == "audio":
            duration = dts - last  # MP4 would end the track where its last packet begins
        packet.stream = target
        packet.dts, packet.pts, packet.duration, packet.time_base = dts, max(pts, dts), duration, unit
        self._container.mux(packet)


def holds(format: str, codec: str) -> bool:
    """Whether players find a codec, by its canonical name, in this container, as far as its muxer does not tell."""
    return codec in _KNOWN_TO.get(format, (codec,)) and codec not in _UNREADABLE.get(format, ())


def _add_copy(container: Any, stream: Any) -> Any:
    if stream.codec_context is None:
        return container.add_stream_from_template(stream)
    copy = container.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(track_tags(stream))
    copy.disposition = stream.disposition
    if stream.type == "audio" and stream.codec_context.layout.name in _LAYOUTS:
        copy.codec_context.layout = _LAYOUTS[stream.codec_context.layout.name]
    return copy


def _takes(container: Any, stream: Any) -> bool:
    """Whether a container of this format can hold the stream: tried on an empty one in memory."""
    codec = stream.codec_context.codec.canonical_name if stream.codec_context is not None else ""
    if not holds(container.format.name, codec):
        return False
    try:
        with av.open(io.BytesIO(), "w", format=container.format.name) as trial:
            _add_copy(trial, stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True
