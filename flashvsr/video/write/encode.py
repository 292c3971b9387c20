"""Frames into an encoded file or pipe, through PyAV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from torch import Tensor

from flashvsr.video.addresses import is_address, plain_address_errors
from flashvsr.video.info import VideoError, VideoInfo, plain_errors
from flashvsr.video.picture.alpha import DECODERS, has_alpha
from flashvsr.video.picture.pixel_shape import PixelShape
from flashvsr.video.picture.pixels import FromRGB, output_colors, tag
from flashvsr.video.tags import Tags
from flashvsr.video.timing import DecodingTimes, Ticks, last_to_add
from flashvsr.video.tracks import TrackCopier, TrackQueue, holds
from flashvsr.video.write.codecs import encoder_options, pick_pixels
from flashvsr.video.write.formats import ADDS_UP, MP4_LIKE, clock_of, discard, keeps_times, longest_pause, open_output


class ContainerSink:
    """One encoded picture track, and copied tracks beside it; see `VideoWriter` for what is promised.

    Args:
        target: File name or ``"-"``.
        size: Width and height.
        info: Of the source.
        codec: Name of an encoder, from `pick_codec`.
        crf: Quality.
        format: Name of a container, from `pick_format`.
        queue: Tracks to copy, or None.
        live: Encode so that frames leave at once.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        size: tuple[int, int],
        info: VideoInfo,
        codec: str,
        crf: float,
        format: str,
        queue: TrackQueue | None,
        live: bool = False,
    ) -> None:
        self.warnings: list[str] = []
        self.alpha = False
        self._name = "stdout" if str(target) == "-" else str(target)
        self._path = None if str(target) == "-" or is_address(target) or format == "hls" else Path(target)
        self._rate = info.frame_rate or Fraction(25)
        self._time_base = (
            clock_of(format, info.time_base, longest_pause(info)) if keeps_times(format) else 1 / self._rate
        )
        self._ticks = Ticks(self._time_base)
        # the last frame and its time, until it is known how long it is shown
        self._held: tuple[av.VideoFrame, int] | None = None
        self._durations: dict[int, int] = {}  # of frames in the encoder, by presentation time
        self._decoding = DecodingTimes(self._time_base)
        self._began: tuple[int, int] | None = None  # presentation and decoding time of the first packet
        self._container = open_output(target, format, self._time_base, shift=queue is not None)
        try:
            self._stream = self._add_picture(size, info, codec, encoder_options(codec, crf, info, live=live))
            self._tracks = TrackCopier(self._container, queue) if queue is not None else None
            self._tags = Tags() if queue is None else queue.tags
            lead = Fraction(0) if self._tracks is None else self._tracks.lead
            self._lead = round(lead / self._time_base)
            self.warnings += [] if self._tracks is None else self._tracks.warnings
            self._shape = PixelShape(self._container, self._stream, info.pixel_aspect)
            with plain_errors(
                f"{codec} cannot encode {size[0]}x{size[1]} into {format}", "try another --codec or --format"
            ):
                if is_address(target):  # PyAV connects only now
                    with plain_address_errors(str(target), "write to"):
                        self._container.start_encoding()
                else:
                    self._container.start_encoding()
        except BaseException:
            self.abort()
            raise

    def write(self, pixels: Tensor, time: Fraction, alpha: Tensor | None = None) -> None:
        """Take a frame, and encode the one before. Times closer than a tick are moved apart by one."""
        frame, tick = self._to_frame(pixels, alpha), self._ticks.tick(time) + self._lead
        with self._plainly():
            if self._held is not None:
                self._mux(self._encode(*self._held, tick - self._held[1]))
        self._held = frame, tick

    def close(self, last_duration: Fraction | None = None) -> None:
        """Flush and finish; a file without frames is an error.

        Args:
            last_duration: How long the last frame is shown, in seconds; None: as long as others.
        """
        with self._plainly():
            packets, end = [], None
            if self._held is not None:
                last = max(1, round((last_duration or 1 / self._rate) / self._time_base))
                packets, end = self._encode(*self._held, last), self._held[1] + last
            self._mux([*packets, *self._stream.encode(None)], end)
            if self._tracks is not None:
                self._tracks.advance(None)
            self._container.close()
        self.warnings += self._ticks.warnings(self._container.format.name)
        self.warnings += self._tags.lost(self._path, self._container.format.name)
        self.warnings += self._shape.finish(self._path)

    def abort(self) -> None:
        """Close and delete."""
        discard(self._container, self._path)

    def _encode(self, frame: av.VideoFrame, pts: int, duration: int) -> list[Any]:
        frame.pts, frame.time_base, frame.duration = pts, self._time_base, duration
        self._durations[pts] = duration
        self._decoding.note(pts)
        return list(self._stream.encode(frame))

    def _mux(self, packets: Sequence[Any], end: int | None = None) -> None:
        """Mux packets; ``end`` is when the last frame ends, given with the last ones."""
        for packet in packets:
            packet.dts = self._decoding.of(packet.pts, packet.dts)
            packet.duration = self._durations.pop(packet.pts, 0)
            self._began = self._began or (packet.pts, packet.dts)
            if end is not None and packet is packets[-1] and self._container.format.name in ADDS_UP:
                packet.duration = last_to_add(self._began, packet.dts, end)
            if self._tracks is not None:
                self._tracks.advance(packet.dts * packet.time_base)
            self._container.mux(packet)

    def _plainly(self) -> Any:
        return plain_errors(f"cannot write {self._name}", "check the disk and the folder, or try another --codec")

    def _add_picture(self, size: tuple[int, int], info: VideoInfo, codec: str, options: dict[str, str]) -> Any:
        format = self._container.format.name
        if not holds(format, av.Codec(codec, "w").canonical_name):
            raise VideoError(f"{format} does not hold {codec} video\nuse another --codec or --format")
        if codec == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only: it writes to stderr, past FFmpeg's own log
        try:
            pixels, lost = pick_pixels(codec, format, size, info)
            self.warnings += lost
            self.alpha = info.has_alpha and has_alpha(av.VideoFormat(pixels))
            options |= {"auto-alt-ref": "0"} if self.alpha and codec == "libvpx" else {}
            stream: Any = self._container.add_stream(codec, rate=self._rate, options=options)
        except (ValueError, av.FFmpegError) as error:
            raise VideoError(
                f"{format} does not take {codec} video\nuse another --codec or --format (matroska takes most)"
            ) from error
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        if self.alpha and codec in DECODERS.values():
            stream.metadata["alpha_mode"] = "1"
        context = stream.codec_context
        context.time_base = self._time_base
        context.thread_type = "AUTO"
        if codec == "libx265" and format in MP4_LIKE:
            context.codec_tag = "hvc1"  # what Apple players ask for
        colors = output_colors(info, av.Codec(codec, "w").canonical_name)
        self._to_frame = FromRGB(stream.pix_fmt, colors)
        if not av.VideoFormat(stream.pix_fmt).is_rgb:
            tag(context, colors)
        return stream
