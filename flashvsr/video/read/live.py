"""Streams from the network and from devices, which have no end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event
from typing import Any

import av

from flashvsr.video.addresses import DEVICES, is_address, is_device, plain_address_errors
from flashvsr.video.info import VideoError
from flashvsr.video.read.deinterlace import Deinterlace
from flashvsr.video.read.demux import Demuxer
from flashvsr.video.read.file_source import FileSource

_EVERY = 0.5  # seconds between two tries to connect again
_READING = {
    "rtsp": {"rtsp_transport": "tcp"},
    "udp": {"overrun_nonfatal": "1", "fifo_size": "100000"},
}
_LOOK = {"analyzeduration": "1000000"}  # microseconds of a stream that FFmpeg looks at before the first frame


class LiveDemuxer(Demuxer):
    """A stream from the network or a device; connects again when it breaks off.

    It goes on where it broke off: a clock that starts anew is taken for that of a recording which follows.

    Args:
        source: An address, a device (see `is_device`), or a file.
        patience: Seconds without data, or without a connection, after which the stream counts as ended.
        say: Told what happens, a line each.
        stopped: Set it to end the stream.

    Attributes:
        connections: How often the stream was opened.
    """

    live = True

    def __init__(self, source: str, *, patience: float, say: Callable[[str], None], stopped: Event) -> None:
        self.connections = 0
        self._patience, self._say, self._stopped = patience, say, stopped
        super().__init__(source)

    def _open(self, source: str) -> Any:
        self.connections += 1
        if not (is_address(source) or is_device(source)):
            return super()._open(source)
        with plain_address_errors(source, "read"):
            return _connect(source, self._patience)

    def _packets(self) -> Iterator[Any]:
        """Packets until the stream is stopped, ends by itself, or stays away."""
        while True:
            try:
                for packet in self.container.demux():
                    if self._stopped.is_set():
                        return
                    yield packet
                reason = "it ended"
            except (av.FFmpegError, OSError) as error:
                reason = error.strerror or type(error).__name__
                yield None
            finished = reason == "it ended" and self.container.duration is not None
            if self._stopped.is_set() or finished or not is_address(self.source) or not self._again(reason):
                return

    def _again(self, reason: str) -> bool:
        self._say(f"{self.name} broke off ({reason}): connecting again")
        deadline = time.monotonic() + self._patience
        time_base = self.stream.time_base
        while not self._stopped.wait(_EVERY) and time.monotonic() < deadline:
            try:
                container = self._open(self.source)
            except VideoError:
                continue
            self.container.close()
            self.container = container
            self.stream = self._first_picture()
            if self.stream.time_base != time_base:
                raise VideoError(f"{self.name} came back with another clock\nstart again")
            return True
        return False


class LiveSource(FileSource):
    """The frames of a stream from the network or a device, as `LiveDemuxer` reads it.

    Args:
        source: An address, a device (see `is_device`), or a file.
        deinterlace: As for `VideoReader`.
        patience: Seconds without data, or without a connection, after which the stream counts as ended.
        say: Told what happens, a line each.
        stopped: Set it to end the stream.

    Attributes:
        stopped: As given, else of its own.
    """

    def __init__(
        self,
        source: str,
        *,
        deinterlace: Deinterlace = "auto",
        patience: float = 10.0,
        say: Callable[[str], None] = lambda line: None,
        stopped: Event | None = None,
    ) -> None:
        self.stopped = stopped or Event()
        self._live = LiveDemuxer(source, patience=patience, say=say, stopped=self.stopped)
        super().__init__(self._live, deinterlace=deinterlace)
        self.info = replace(self.info, frames=None)

    @property
    def connections(self) -> int:
        """How often the stream was opened."""
        return self._live.connections


def _connect(source: str, patience: float) -> Any:
    protocol = source.split(":", maxsplit=1)[0].lower()
    options = _LOOK | _READING.get(protocol, {})
    if is_address(source):
        return av.open(source, "r", options=options, timeout=(patience, patience))
    format, name = DEVICES[protocol], source.partition(":")[2]
    if format not in av.formats_available:
        raise VideoError(f"{source}: this build of FFmpeg has no {protocol}\nuse another kind of input")
    return av.open(name, "r", format=format)
