"""Frames into an encoded file or pipe, through PyAV."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any

import av
from torch import Tensor

from flashvsr.video.addresses import format_of, is_address, plain_address_errors
from flashvsr.video.alpha import DECODERS, has_alpha
from flashvsr.video.images import PICTURE_SUFFIXES
from flashvsr.video.info import VideoError, VideoInfo, file_url, plain_errors
from flashvsr.video.pixel_shape import PixelShape
from flashvsr.video.pixels import FromRGB, output_colors, tag
from flashvsr.video.tags import Tags
from flashvsr.video.timing import DecodingTimes, Ticks, last_to_add
from flashvsr.video.tracks import TrackCopier, TrackQueue, holds

_FORMAT_NAMES = {"mkv": "matroska", "y4m": "yuv4mpegpipe", "ts": "mpegts", "m4v": "mp4"}
_NEED_SEEKING = ("mp4", "mov", "ipod", "3gp", "3g2", "avi")
_MP4_LIKE = ("mp4", "mov", "ipod")
_FINE = Fraction(1, 240_000)  # seconds: a multiple of all usual rates
ADDS_UP = _MP4_LIKE
"""Containers whose length is that of all packets together, in decoding order."""
_VARIABLE_RATE = 0x400  # AVFMT_VARIABLE_FPS
_WELL_KNOWN = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1")
_H264, _AV1_OR_VP9 = ("libx264", "libx264"), ("libsvtav1", "libvpx-vp9")
# encoders of "auto" for HDR and deep sources and for the rest, by container; _USUAL suits those that are not named
_USUAL = ("libx265", "libx264")
_AUTO = (
    {"webm": _AV1_OR_VP9, "ivf": _AV1_OR_VP9}
    | dict.fromkeys(("avi", "asf", "f4v", "3gp", "3g2", "mxf", "h264"), _H264)
    | dict.fromkeys(("ogg", "ogv"), ("libvpx", "libvpx"))
    | dict.fromkeys(("avif", "obu"), ("libsvtav1", "libsvtav1"))
    | {"yuv4mpegpipe": ("rawvideo", "rawvideo"), "hevc": ("libx265", "libx265")}
    | {name: (name, name) for name in ("apng", "mjpeg")}
)
# the first that the encoder takes; odd sizes cannot have their colour halved
_PIXEL_FORMATS = {
    (8, "even"): ("yuv420p", "yuvj420p", "nv12", "yuv422p", "yuv444p", "gbrp", "rgb24"),
    (8, "odd"): ("yuv444p", "gbrp", "rgb24", "yuvj444p"),
    (10, "even"): ("yuv420p10le", "p010le", "yuv422p10le", "yuv444p10le", "gbrp10le", "rgb48be", "rgb48le"),
    (10, "odd"): ("yuv444p10le", "gbrp10le", "rgb48be", "rgb48le"),
}
# with an alpha channel, the first that the encoder takes
_ALPHA_FORMATS = {
    8: ("rgba", "bgra", "argb", "yuva420p", "yuva444p", "gbrap"),
    10: ("yuva444p10le", "gbrap10le", "rgba64be", "rgba64le"),
}
_ALPHA_ONLY = {"libvpx": ("yuva420p",), "libvpx-vp9": ("yuva420p",), "apng": ("rgba",)}  # that decoders read
_AUTO_ALPHA = {"mov": "prores_ks", "webm": "libvpx-vp9", "matroska": "libvpx-vp9", "nut": "ffv1"}
_WITHOUT_ALPHA = ("libx265", "libwebp", "libwebp_anim")  # x265 writes what few decoders read


def holds_alpha(format: str, codec: str) -> bool:
    """Whether transparency that an encoder of this name writes can be read from this container."""
    if codec in DECODERS.values():
        return format in ("matroska", "webm")
    return codec not in _WITHOUT_ALPHA and format != "yuv4mpegpipe"


def pick_format(target: str | Path, format: str) -> str:
    """Name of the container format as FFmpeg knows it.

    Args:
        target: File name or ``"-"``.
        format: ``"auto"`` or a name; ``mkv``, ``ts`` and ``y4m`` are understood.

    Raises:
        VideoError: Unknown ending or format, or one that cannot go to a pipe.
    """
    name = str(target)
    if format == "auto":
        ending = Path(name).suffix.lower()
        if ending in PICTURE_SUFFIXES:
            raise VideoError(
                f"{name} is one picture, not a video\nname a folder, or a pattern such as {Path(name).stem}_%05d.png"
            )
        format = "matroska" if name == "-" else format_of(name) if is_address(name) else _by_ending(name)
    format = _FORMAT_NAMES.get(format, format)
    try:
        known = av.ContainerFormat(format, "w")
    except ValueError as error:
        raise VideoError(
            f"unknown format {format!r}\nexpected one such as mp4, mov, matroska, webm, nut, y4m, mpegts"
        ) from error
    if (name == "-" or is_address(name)) and known.name in _NEED_SEEKING:
        raise VideoError(
            f"{known.name} cannot be written to a pipe\nuse --format matroska, nut, y4m or mpegts, or write to a file"
        )
    return known.name


def clock_of(format: str, time_base: Fraction, longest: int = 0) -> Fraction:
    """Seconds per tick for times in a container of this format: those asked for unless it cannot tell pauses in them.

    Args:
        format: From `pick_format`.
        time_base: Seconds per tick of the times at hand.
        longest: Ticks between two frames at most, when that is known; MP4 holds 31 bits of them.
    """
    too_fine = longest >= 1 << 31 or time_base < Fraction(1, 50_000_000)
    return _FINE if format in _MP4_LIKE and too_fine else time_base


def _longest_pause(info: VideoInfo) -> int:
    """Ticks between two frames at most on a clock so fine that it matters: the whole video; 0 if unknown."""
    if info.time_base >= _FINE or info.frames is None or info.frame_rate is None:
        return 0
    return ceil(info.frames / info.frame_rate / info.time_base)


def keeps_times(format: str) -> bool:
    """Whether a container, named as by `pick_format`, holds a time for each frame and not just a frame rate."""
    return bool(av.ContainerFormat(format, "w").flags & _VARIABLE_RATE)


def pick_codec(codec: str, format: str, info: VideoInfo) -> str:
    """Name of the encoder: the one asked for, or what suits the container and the source.

    ``"auto"`` is 10-bit HEVC (libx265) for HDR and deep sources and H.264 (libx264) for the rest, where the container
    takes both; VP9 or AV1 (libsvtav1) for WebM, VP8 for Ogg, uncompressed for Y4M, and what else a container is for.
    For a transparent source it is ProRes 4444 in MOV, VP9 in Matroska and WebM, FFV1 in NUT.

    Raises:
        VideoError: No such encoder in this build of FFmpeg.
    """
    if codec == "auto" and info.has_alpha and format in _AUTO_ALPHA:
        return _AUTO_ALPHA[format]
    if codec == "auto":
        deep, plain = _AUTO.get(format, _USUAL)
        return deep if info.is_hdr or info.bit_depth > 8 else plain
    try:
        known = av.Codec(codec, "w")
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"unknown codec {codec!r}\nexpected auto or an encoder such as {_available()}") from error
    if known.type != "video":
        raise VideoError(f"codec {codec!r} encodes {known.type}, not video\nexpected auto or one of {_available()}")
    return known.name


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
            clock_of(format, info.time_base, _longest_pause(info)) if keeps_times(format) else 1 / self._rate
        )
        self._ticks = Ticks(self._time_base)
        # the last frame and its time, until it is known how long it is shown
        self._held: tuple[av.VideoFrame, int] | None = None
        self._durations: dict[int, int] = {}  # of frames in the encoder, by presentation time
        self._decoding = DecodingTimes(self._time_base)
        self._began: tuple[int, int] | None = None  # presentation and decoding time of the first packet
        self._container = open_output(target, format, self._time_base, shift=queue is not None)
        try:
            self._stream = self._add_picture(size, info, codec, _options(codec, crf, info, live=live))
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
            pixels = self._pick_pixels(codec, size, info)
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
        if codec == "libx265" and format in _MP4_LIKE:
            context.codec_tag = "hvc1"  # what Apple players ask for
        colors = output_colors(info, av.Codec(codec, "w").canonical_name)
        self._to_frame = FromRGB(stream.pix_fmt, colors)
        if not av.VideoFormat(stream.pix_fmt).is_rgb:
            tag(context, colors)
        return stream

    def _pick_pixels(self, codec: str, size: tuple[int, int], info: VideoInfo) -> str:
        depth = 10 if info.bit_depth > 8 or info.is_hdr else 8
        parity = "odd" if size[0] % 2 or size[1] % 2 else "even"
        offered = [layout.name for layout in av.Codec(codec, "w").video_formats or ()]
        if info.has_alpha and (name := self._pick_alpha(codec, depth, parity, offered)):
            return name
        if not offered:  # raw video takes anything
            return _PIXEL_FORMATS[depth, parity][0]
        for name in _PIXEL_FORMATS[depth, parity] + _PIXEL_FORMATS[18 - depth, parity]:
            if name in offered:
                if parity == "odd" and name.startswith("yuv"):
                    self.warnings.append(f"{size[0]}x{size[1]} is odd: written as {name}, which not every player shows")
                if depth == 10 and name in _PIXEL_FORMATS[8, parity]:
                    self.warnings.append(f"{codec} has no 10-bit format: written with 8 bits")
                return name
        raise VideoError(
            f"{codec} cannot encode {size[0]}x{size[1]}: it takes {', '.join(offered[:6])}\nuse another --codec"
        )

    def _pick_alpha(self, codec: str, depth: int, parity: str, offered: Sequence[str]) -> str | None:
        """A pixel format with an alpha channel; None, with a warning, when there is none."""
        format = self._container.format.name
        for name in _ALPHA_ONLY.get(codec, (*_ALPHA_FORMATS[depth], *_ALPHA_FORMATS[18 - depth])):
            halves = name == "yuva420p" and parity == "odd" and codec not in _ALPHA_ONLY
            if holds_alpha(format, codec) and name in (offered or _ALPHA_FORMATS[depth]) and not halves:
                if depth == 10 and name in _ALPHA_FORMATS[8]:
                    self.warnings.append(f"{codec} has no 10-bit format with transparency: written with 8 bits")
                return name
        self.warnings.append(
            f"{format} with {codec} holds no transparency: the result has none; .webm, .mov and PNG files keep it"
        )
        return None


def open_output(target: str | Path, format: str, time_base: Fraction, *, shift: bool) -> Any:
    """Open a container for writing, with the settings that keep times exact and put the index of MP4 in front.

    Args:
        target: File name or ``"-"``; its folder must exist.
        format: From `pick_format`.
        time_base: Of the picture.
        shift: Whether all times may move together, so that none is negative.

    Raises:
        VideoError: The file cannot be made.
    """
    options = {"strict": "-1"}  # 10-bit Y4M
    if format in _MP4_LIKE:
        options |= {"movflags": "faststart", "movie_timescale": str(max(1000, min(time_base.denominator, 1 << 30)))}
    if format == "nut" and not shift:
        options["avoid_negative_ts"] = "disabled"  # the times of a segment are absolute
    name = "stdout" if str(target) == "-" else str(target)
    if is_address(name):
        return av.open(name, "w", format=format, container_options=options | {"flush_packets": "1"})
    if format == "hls":  # the last half minute, from folders of other pieces as well
        options |= {"hls_time": "2", "hls_list_size": "15", "hls_flags": "delete_segments+independent_segments"}
    with plain_errors(f"cannot write {name}", "check that the folder exists and may be written"):
        if name != "stdout":
            Path(name).open("wb").close()  # PyAV opens it only with the first packet: too late for a plain error
        return av.open("pipe:1" if name == "stdout" else file_url(name), "w", format=format, container_options=options)


def discard(container: Any, path: Path | None) -> None:
    """Close an output that failed and delete its file."""
    with suppress(av.FFmpegError, OSError):  # it failed before: that error is the one to report
        container.close()
    if path is not None and path.is_file():
        path.unlink()


def _options(codec: str, crf: float, info: VideoInfo, *, live: bool = False) -> dict[str, str]:
    """Encoder settings; those an encoder does not know are ignored by FFmpeg."""
    options = {"crf": f"{crf:g}"}
    if codec in ("libx264", "libx265"):
        options["preset"] = "medium"
    if codec == "libx264":
        options["x264-params"] = f"threads=auto{x264_assembly()}"
    if codec == "libx265":
        settings = ["log-level=none", "open-gop=0"]
        if info.is_hdr and info.colors.transfer == 16:
            settings += ["hdr10=1", "repeat-headers=0"]
            settings += [f"master-display={info.mastering_display}"] if info.mastering_display else []
            settings += [f"max-cll={info.content_light}"] if info.content_light else []
        options["x265-params"] = ":".join(settings)
    if live:  # no frame waits for later ones, and players may join every two seconds
        options |= {"g": str(max(1, round(2 * (info.frame_rate or 25))))}
        options |= {"libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}}.get(codec, {})
    if live and codec in ("libx264", "libx265"):
        options |= {"preset": "veryfast", "tune": "zerolatency"}
    return options


@cache
def x264_assembly() -> str:
    """What keeps x264 from its AVX-512 code, whose lookahead gives other bytes from run to run; AVX2's does not."""
    cpu = Path("/proc/cpuinfo")
    return ":asm=AVX2" if cpu.is_file() and "avx512" in cpu.read_text(encoding="utf-8") else ""


def _by_ending(name: str) -> str:
    ending = Path(name).suffix.lower().lstrip(".")
    for candidate in (_FORMAT_NAMES.get(ending, ending), *sorted(av.formats_available)):
        try:
            known = av.ContainerFormat(candidate, "w")
        except ValueError:
            continue
        if candidate == _FORMAT_NAMES.get(ending, ending) or ending in known.extensions:
            return known.name
    raise VideoError(
        f"{name}: no format has the ending {Path(name).suffix!r}\nuse .mp4, .mkv, .mov or .webm, or name a --format"
    )


def _available() -> str:
    return ", ".join(name for name in _WELL_KNOWN if name in av.codecs_available)
