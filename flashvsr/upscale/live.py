"""Streams without an end: frames leave as soon as they are finished, and nothing is kept to go on from."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

import torch

from flashvsr.streaming import StreamingModel
from flashvsr.upscale.encode import Piece
from flashvsr.upscale.options import EncodeOptions, LiveOptions, LoadOptions
from flashvsr.upscale.pipeline import read_ahead, write_behind
from flashvsr.upscale.progress import Reporter, reporter
from flashvsr.upscale.target import Target
from flashvsr.video import LiveSource, VideoError, VideoFrame, VideoWriter, fill_transparent, is_address

_CHUNKS = 2  # that wait at most
_FRAMES = 8  # of a chunk, where the model does not say


@dataclass(frozen=True)
class LiveResult:
    """What became of a stream.

    Attributes:
        frames: Frames that were written.
        dropped: Frames that were dropped because the model was too slow.
        connections: How often the input was opened.
        latency: Seconds from the arrival of a frame to its encoding, on average over the oldest frame of each piece.
        warnings: One line each.
    """

    frames: int
    dropped: int
    connections: int
    latency: float
    warnings: list[str] = field(default_factory=list)


class Arrived(NamedTuple):
    """A frame of the input.

    Attributes:
        frame: On the model's device.
        at: When it was decoded, by ``time.monotonic``.
    """

    frame: VideoFrame
    at: float


class _Delivery(NamedTuple):
    piece: Piece
    oldest: float  # when its first frame arrived


def upscale_live(
    input: str,
    output: str | Path,
    *,
    model: str | Path | StreamingModel = "nano",
    loading: LoadOptions = LoadOptions(),
    scale: float = 4,
    seed: int = 0,
    encoding: EncodeOptions = EncodeOptions(),
    live: LiveOptions = LiveOptions(),
    overwrite: bool = False,
    quiet: bool = False,
    stop: Event | None = None,
) -> LiveResult:
    """Upscale a stream until it ends or is stopped, in memory that does not grow.

    There is no journal: a stream cannot be read again, so this run cannot be resumed. The output is written at its own
    name and closed properly however the input ends.

    Args:
        input: A network address such as ``"rtsp://camera/1"`` or ``"udp://0.0.0.0:5000"``, a device such as
            ``"v4l2:/dev/video0"``, a file, or ``"-"``.
        output: A network address, a playlist such as ``"out.m3u8"``, a file, or ``"-"``.
        model: As for `upscale_file`.
        loading: As for `upscale_file`.
        scale: Enlargement.
        seed: Of the noise.
        encoding: Codec, quality, container, and what is done with interlaced video.
        live: What to do when the model is too slow or the input stays away.
        overwrite: Replace an existing file.
        quiet: Show nothing.
        stop: Set it to end: frames that have arrived are still upscaled and written.

    Returns:
        What became of it.

    Raises:
        VideoError: If the input cannot be opened or the output cannot be written; also if the input changes its size,
            after what came before has been written.
        FileExistsError: If the output is there and ``overwrite`` is not given.
        ValueError: If an option makes no sense.
    """
    _check(output, live, overwrite=overwrite, format=encoding.format)
    with reporter(quiet=quiet) as report:
        system = _load(model, loading)  # first: what is sent meanwhile would be lost
        source = LiveSource(
            input, deinterlace=encoding.deinterlace, patience=live.patience, say=report.line, stopped=stop
        )
        try:
            return _Run(source, system, report, live).into(output, scale, seed, encoding)
        finally:
            source.close()


def _check(output: str | Path, live: LiveOptions, *, overwrite: bool, format: str) -> None:
    if live.patience <= 0 or live.report_every <= 0:
        raise ValueError(f"patience={live.patience} and report_every={live.report_every}: expected positive seconds")
    if is_address(output) or str(output) == "-":
        return
    if Target.parse(output, format).kind != "file":
        raise ValueError(f"{output} stands for images: a stream goes to an address, a file or a playlist (.m3u8)")
    if Path(output).exists() and not overwrite:
        raise FileExistsError(f"{output} exists already: choose another output, or replace it with --overwrite")


def _load(model: str | Path | StreamingModel, loading: LoadOptions) -> StreamingModel:
    if not isinstance(model, str | Path):
        return model
    from flashvsr.models.loading import load

    return load(model, **vars(loading))


class _Run:
    """One stream on its way through a model."""

    def __init__(self, source: LiveSource, system: StreamingModel, report: Reporter, live: LiveOptions) -> None:
        self.source, self.system, self.report, self.live = source, system, report, live
        self.device = torch.device(getattr(system, "device", "cpu"))
        self.chunk = getattr(getattr(system, "geometry", None), "next_frames", _FRAMES)
        self.frames = self.dropped = 0
        self.latencies: list[float] = []
        self.failure: VideoError | None = None

    def into(self, output: str | Path, scale: float, seed: int, encoding: EncodeOptions) -> LiveResult:
        """Follow the stream to its end."""
        info = self.source.info
        stream = self.system.stream(height=info.height, width=info.width, scale=scale, seed=seed)
        writer = VideoWriter(
            output,
            width=round(scale * info.width),
            height=round(scale * info.height),
            info=info,
            codec=encoding.codec,
            crf=encoding.crf,
            format=encoding.format,
            copy_tracks_from=self.source,
            live=True,
        )
        for line in (*self.source.warnings, *writer.warnings):
            self.report.line(f"warning: {line}")
        self.report.start(0, None)
        with (
            write_behind(partial(self._write, writer=writer), size=1) as put,
            read_ahead(
                partial(self._read, alpha=writer.alpha),
                size=_CHUNKS * self.chunk,
                dropping=self.chunk if self.live.realtime else 0,
                on_drop=self._drop,
            ) as arrivals,
        ):
            waiting: deque[Arrived] = deque()

            def pass_on(out: torch.Tensor) -> None:
                given = [waiting.popleft() for _ in range(len(out))]
                times = [arrived.frame.time for arrived in given]
                piece = Piece.fetch(out, times, [arrived.frame.alpha for arrived in given])
                put(_Delivery(piece, given[0].at))

            for arrived in arrivals:
                waiting.append(arrived)
                if len(out := stream.push(arrived.frame.pixels[None])):
                    pass_on(out)
            if len(out := stream.finish()):
                pass_on(out)
        return self._end(writer)

    def _read(self, put: Callable[[Arrived], None], *, alpha: bool) -> None:
        try:
            for frame in self.source.frames(0):
                kept = frame.alpha if alpha else None
                pixels = frame.pixels if kept is None else fill_transparent(frame.pixels, kept)
                put(Arrived(VideoFrame(pixels.to(self.device), frame.time, kept), time.monotonic()))
                if self.source.stopped.is_set():
                    return
        except VideoError as error:  # what came before is written first
            self.failure = error

    def _write(self, deliveries: Iterator[_Delivery], *, writer: VideoWriter) -> None:
        spoken, before = time.monotonic(), 0
        recent: list[float] = []
        with writer:
            for piece, oldest in deliveries:
                piece.write_to(writer)
                now = time.monotonic()
                self.frames += len(piece.times)
                recent.append(now - oldest)
                self.report.update(self.frames)
                if now - spoken >= self.live.report_every:
                    self._say(recent, (self.frames - before) / (now - spoken))
                    self.latencies.append(sum(recent) / len(recent))
                    spoken, before, recent = now, self.frames, []
        self.latencies += [sum(recent) / len(recent)] if recent else []

    def _say(self, recent: list[float], speed: float) -> None:
        line = f"latency {sum(recent) / len(recent):.2f} s, at most {max(recent):.2f} s; {speed:.1f} frames per second"
        self.report.line(line + (f"; {self.dropped} frames dropped" if self.dropped else ""))

    def _drop(self, count: int) -> None:
        if not self.dropped:
            self.report.line("slower than real time: the oldest whole chunk of frames is dropped where they pile up")
        self.dropped += count

    def _end(self, writer: VideoWriter) -> LiveResult:
        latency = sum(self.latencies) / len(self.latencies) if self.latencies else 0.0
        warnings = list(dict.fromkeys((*self.source.warnings, *writer.warnings)))
        self.report.line(f"{self.frames} frames, {self.dropped} dropped, latency {latency:.2f} s")
        if self.failure is not None:
            raise self.failure
        return LiveResult(self.frames, self.dropped, self.source.connections, latency, warnings)
