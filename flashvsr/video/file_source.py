"""Video files and pipes, read through PyAV."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av

from flashvsr.video.alpha import DECODERS, is_transparent
from flashvsr.video.asf import asf_length
from flashvsr.video.crop import UNALIGNED, container_crop
from flashvsr.video.deinterlace import Deinterlace, Timed, deinterlace, plan, watch
from flashvsr.video.info import VideoError, VideoFrame, VideoInfo, file_url, plain_errors
from flashvsr.video.matroska import needs_dolby_vision
from flashvsr.video.pixels import (
    ToRGB,
    bit_depth,
    display_matrix,
    frame_colors,
    resolve_colors,
    rotation_degrees,
    side_data,
)
from flashvsr.video.tags import LENIENT, Tags
from flashvsr.video.timing import Clock, Joins
from flashvsr.video.tracks import TrackQueue, describe_track
from flashvsr.video.trim import WHOLE, Trim

_NO_TIMESTAMPS = 0x80  # AVFMT_NOTIMESTAMPS: raw H.264, HEVC and the like
_AS_NAMED = {"pattern_type": "none"}  # a picture called a%d.png is not a series
_CLOCK_RESTARTS = 0x200  # AVFMT_TS_DISCONT: MPEG transport and program streams, Ogg and the like
_OVERHEAD = 100  # bytes between two packets of Matroska at most, unless something is skipped there
_INTERLEAVED = 10  # seconds by which sound lies behind its picture in a file at most
_DYNAMIC = {"DYNAMIC_HDR_PLUS": "HDR10+", "DYNAMIC_HDR_VIVID": "HDR Vivid", "DOVI_METADATA": "Dolby Vision"}
_TOLERANCE = Fraction(1, 4)  # seconds by which a file may end before the length that it states


class FileSource:
    """The frames of a file or of stdin; see `VideoReader` for what is promised.

    The picture is the first video track that is not a cover. Rotation and cropping are applied. Packets of other tracks
    go into ``tracks``.

    Args:
        source: A path, or ``"-"``.
        fps: Frame rate for streams without timestamps.
        trim: The part that is wanted.
        deinterlace: As for `VideoReader`.
    """

    live = False
    """Whether what is damaged is left out, and the clock may start anew."""

    def __init__(
        self, source: str, *, fps: Fraction | None = None, trim: Trim = WHOLE, deinterlace: Deinterlace = "off"
    ) -> None:
        self.warnings: list[str] = []
        self.name = "stdin" if source == "-" else source
        self._trim = trim
        self._container = self._open(source)
        self.tracks = TrackQueue([])
        try:
            self._stream = self._first_picture()
            others = [stream for stream in self._container.streams if stream is not self._stream]
            others = [stream for stream in others if stream.discard != av.stream.Discard.all]  # texts of MP4's chapters
            self.tracks = TrackQueue(others, Tags.read(self._container, self._stream))
            self._origin = Fraction(0)  # of the first frame, on the file's clock, in seconds
            self._seen_end = Fraction(0)  # latest end of any packet, on the file's clock, in seconds
            self._damaged_at: Fraction | None = None
            self._read_end: int | None = None  # where the last packet ends, in bytes
            self._gaps = False  # whether bytes of Matroska lie between packets that are of none
            self._missing = 0  # frames that the times have room for
            self._counts = self._container.format.name == "avi"  # packets, and tells no presentation times
            self._keys: list[int] = []  # decoding times of key frames until the first frame is decoded
            self._delay = 0  # ticks between the decoding of a frame and its presentation, where packets are counted
            self._raw = bool(self._container.format.flags & _NO_TIMESTAMPS)
            self._crop = container_crop(self._stream)
            time_base, self._rate = self._time_base_and_rate(fps)
            self._clock = Clock(time_base, self._rate)
            self._joins = Joins(restarts=self.live or bool(self._container.format.flags & _CLOCK_RESTARTS))
            self._time = self._began = Fraction(0)
            self._number = self._shown = 0  # frames decoded, and how many ticks the last one is shown
            self.last_duration: Fraction | None = None
            self._decoded = self._decode()
            first = self._first_frame()
            codec = self._stream.codec_context
            self._plan, frames = plan(
                chain([first], self._decoded),
                "off" if codec.name == "theora" else deinterlace,  # whose repeated frames are one object
                field_order=codec.field_order,
                codec=codec.name,
            )
            self.warnings += [f"{self.name} is {self._plan.reason}"] if self._plan.reason else []
            self._frames = self._whole(self._timed(frames), wanted=deinterlace)
            self.info = self._describe(source, first)
            self._first = self._enter()
            if self.tracks.tags.has_timecode and (self._began or self._plan.mode == "film"):
                self.tracks.tags = self.tracks.tags.without_timecode()
                self.warnings.append(f"{self.name}: its timecode is not copied, for frames are counted anew")
            for kind, name in _DYNAMIC.items():
                if side_data(first, kind) is not None:
                    self.warnings.append(f"{self.name}: its {name} metadata is not copied: it is about other pixels")
            if needs_dolby_vision(self._stream):
                self.warnings.append(
                    f"{self.name} is Dolby Vision whose colours (IPTPQc2) only its players know: those of the result"
                    " will be wrong; convert it to HDR10 first"
                )
            if self._hides_its_sound():
                self.warnings.append(f"{self.name} has its sound switched off: players may play that of the result")
            self._to_rgb = ToRGB(
                resolve_colors(self.info.colors, first.width, first.height),
                deep=self.info.bit_depth > 8,
                crop=self._crop,
            )
        except BaseException:
            self.close()
            raise

    def frames(self, skip: int) -> Iterator[VideoFrame]:
        """All frames after the first ``skip``; they are decoded and dropped."""
        self.tracks.settle()
        timed, self._first = self._first, None
        number, last = 0, self._time
        while timed is not None and not self._is_past(timed.time):
            if number >= skip:
                pixels = self._to_rgb(timed.frame)
                if pixels.shape[1:] != (self.info.height, self.info.width):
                    raise VideoError(
                        f"{self.name} changes size at {float(timed.time):.2f} s,"
                        f" from {self.info.width}x{self.info.height} to {pixels.shape[2]}x{pixels.shape[1]}\n"
                        "cut it there and upscale each part on its own"
                    )
                alpha = self._to_rgb.alpha(timed.frame) if self.info.has_alpha else None
                yield VideoFrame(pixels, timed.time - self._began, alpha)
            number, last = number + 1, timed.time
            timed = next(self._frames, None)
        if timed is not None:
            self.last_duration = timed.time - last
            for packet in self._other_packets():
                self.tracks.push(packet)
            return
        shown = self._last_duration(self._shown * self._clock.time_base)  # that of the last frame decoded
        self.last_duration = None if shown is None else shown + self._time - last
        self._check_end(self._number)

    def packets(self) -> Iterator[Any]:
        """Packets of the tracks wanted, to the end of the file; the picture is not decoded."""
        while (packet := self.tracks.pop()) is not None:
            yield packet
        for packet in self._other_packets():
            self.tracks.push(packet)
            if (kept := self.tracks.pop()) is not None:
                yield kept

    def close(self) -> None:
        """Close the file. Packets that wait in ``tracks`` stay readable."""
        self.tracks.close()
        self._container.close()

    def _open(self, source: str) -> Any:
        if source != "-":
            path = Path(source)
            if not path.exists():
                raise VideoError(f"{source}: no such file\ncheck the name; 'example:' is a built-in clip to try")
            if path.is_file() and path.stat().st_size == 0:
                raise VideoError(f"{source} is empty (0 bytes)\nexpected a video file")
        with plain_errors(f"cannot read {self.name} as video", "it is not a video, or its beginning or end is missing"):
            return av.open("pipe:0" if source == "-" else file_url(source), "r", options=_AS_NAMED, **LENIENT)

    def _timed(self, frames: Iterator[av.VideoFrame]) -> Iterator[Timed]:
        """Decoded frames, and when they are shown."""
        for frame in frames:
            before, self._time = self._time, self._clock.tick(self._stamp(frame)) * self._clock.time_base
            if self._number and self._rate:
                self._missing += max(0, round((self._time - before) * self._rate) - 1)
            self._number, self._shown = self._number + 1, frame.duration
            yield Timed(frame, self._time)

    def _whole(self, frames: Iterator[Timed], *, wanted: Deinterlace) -> Iterator[Timed]:
        """Frames that are not interlaced, or not to be treated as if they were."""
        if self._plan.mode != "off":
            return deinterlace(frames, self._plan, self.name)
        return watch(frames, self.name, self.warnings) if wanted == "auto" else frames

    def _enter(self) -> Timed | None:
        """The first frame that is wanted; those before are dropped, and other tracks are cut."""
        trim, origin = self._trim, self.tracks.origin
        if trim == WHOLE:
            return next(self._frames)
        if trim.start:
            self.tracks.cut(origin + trim.start, None)  # what comes before is not to be kept meanwhile
        timed = next((timed for timed in self._frames if timed.time >= trim.start), None)
        if timed is None:
            raise VideoError(trim.too_late(self.name, self._time))
        self._began = timed.time
        end = None if trim.end is None else origin + trim.end
        self.tracks.cut(origin + self._began if self._began else None, end)
        self.tracks.tags = self.tracks.tags.cut(origin + self._began, end)
        self.tracks.origin = origin + self._began
        if self.info.frames and (rate := self.info.frame_rate):
            rest = self.info.frames - round(self._began * rate)
            asked = rest if trim.end is None else round((trim.end - self._began) * rate)
            self.info = replace(self.info, frames=max(1, min(rest, asked)))
        return timed

    def _is_past(self, time: Fraction) -> bool:
        return self._trim.end is not None and time >= self._trim.end

    def _other_packets(self) -> Iterator[Any]:
        """Packets of other tracks in what is left of the file, or of its part that is wanted; nothing is decoded."""
        with self._plainly():
            for packet in self._demuxed():
                if packet.stream.index != self._stream.index:
                    yield packet
                time = None if packet.dts is None else packet.dts * packet.time_base - self._origin
                if time is not None and self._is_past(time - _INTERLEAVED):
                    return

    def _plainly(self) -> Any:
        return plain_errors(
            lambda: f"{self.name} is damaged or cut off at {float(self._time):.2f} s",
            "what comes before is fine: repair the file, or cut it there first",
        )

    def _first_picture(self) -> Any:
        for candidate in self._container.streams.video:
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
        kinds = ", ".join(sorted({str(stream.type) for stream in self._container.streams})) or "nothing"
        raise VideoError(f"{self.name} has no video stream, only {kinds}\nexpected a file with a picture")

    def _hides_its_sound(self) -> bool:
        """Whether no audio track of an MP4 is one to be played."""
        default = int(av.stream.Disposition.default)
        sounds = list(self._container.streams.audio)
        mp4 = "mp4" in self._container.format.name.split(",")
        return mp4 and bool(sounds) and not any(int(stream.disposition) & default for stream in sounds)

    def _moving(self, first: Any) -> Any:
        """The sequence of an animated AVIF or HEIF, whose first track is a still picture of it."""
        longer = [stream for stream in self._container.streams.video if stream.frames > 1]
        still = first.frames == 1 and first.duration is None
        return longer[0] if still and longer else first

    def _time_base_and_rate(self, fps: Fraction | None) -> tuple[Fraction, Fraction | None]:
        stream = self._stream
        if self._raw:
            rate = fps or stream.guessed_rate or Fraction(25)
            if fps is None:
                self.warnings.append(
                    f"{self.name} has no timestamps: played at {float(rate):g} frames per second; --fps sets another"
                )
            return 1 / Fraction(rate), Fraction(rate)
        if fps is not None:
            self.warnings.append(f"{self.name} has timestamps: the frame rate asked for is not used")
        return stream.time_base, stream.average_rate or stream.guessed_rate

    def _first_frame(self) -> av.VideoFrame:
        frame = next(self._decoded, None)
        if frame is None and self._container.format.name == "webp_pipe":
            raise VideoError(f"{self.name} is an animated WebP, which FFmpeg does not read\nmake a GIF or images of it")
        if frame is None:
            raise VideoError(f"{self.name} has no frames that can be decoded\nit is empty or damaged")
        if self._counts and frame.dts is not None:
            self._delay = frame.dts - max((dts for dts in self._keys if dts <= frame.dts), default=frame.dts)
        stamp = self._stamp(frame)
        if stamp is not None:
            self._origin = self.tracks.origin = stamp * self._stream.time_base
        return frame

    def _stamp(self, frame: av.VideoFrame) -> int | None:
        """When a frame is shown on the file's clock, in ticks; None when the file does not say.

        AVI counts packets in decoding order: the n-th frame is shown with the n-th. What FFmpeg makes of that for
        frames that were reordered is out of order.
        """
        if self._raw:
            return None
        if self._counts:
            return None if frame.dts is None else frame.dts - self._delay
        return frame.pts

    def _describe(self, source: str, frame: av.VideoFrame) -> VideoInfo:
        stream = self._stream
        matrix = display_matrix(frame)
        turned = matrix[0] == 0
        width, height = self._crop.size(frame.width, frame.height)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        end, start, rate = self._promised_end(), self._origin, self._rate
        estimate = stream.frames or (round((end - start) * rate) if rate and end is not None else 0)
        mastering, light = _hdr10_metadata(frame)
        return VideoInfo(
            width=height if turned else width,
            height=width if turned else height,
            frame_rate=rate and rate * self._plan.rate,
            time_base=self._clock.time_base / self._plan.ticks,
            frames=round(estimate * self._plan.rate) or None,
            bit_depth=bit_depth(frame),
            colors=frame_colors(frame, stream.codec_context.codec.canonical_name),
            pixel_aspect=1 / aspect if turned else aspect,
            rotation=rotation_degrees(matrix),
            tracks=tuple(describe_track(other) for other in self.tracks.streams),
            is_pipe=is_pipe(source),
            mastering_display=mastering,
            content_light=light,
            has_alpha=is_transparent(frame),
            source=self.name,
        )

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Frames in order; packets of other tracks go to the queue on the way."""
        started, decoder = False, self._alpha_decoder()
        last: av.VideoFrame | None = None
        with self._plainly():
            for packet in self._demuxed():
                if packet is None:
                    yield from self._stream.codec_context.decode(None)
                    continue
                if packet.stream.index != self._stream.index:
                    self.tracks.push(packet)
                    continue
                if packet.size == 0 and packet.dts is not None:  # the frame before is shown again
                    if last is not None and self._stream.codec_context.name == "theora":
                        last.pts = packet.pts
                        yield last
                    continue
                if not started and packet.is_keyframe and packet.dts is not None:
                    self._keys.append(packet.dts)
                try:
                    frames = packet.decode() if decoder is None else decoder.decode(packet)
                except av.InvalidDataError:
                    if started and not self.live:
                        raise
                    continue  # a stream that was cut may start between key frames: wait for the first
                started = started or bool(frames)
                last = frames[-1] if frames else last
                yield from frames

    def _alpha_decoder(self) -> Any | None:
        """The decoder that also reads the transparency of WebM, where there is some."""
        context, tags = self._stream.codec_context, {key.lower(): tag for key, tag in self._stream.metadata.items()}
        if context.name not in DECODERS or tags.get("alpha_mode") != "1":
            return None
        decoder = av.CodecContext.create(DECODERS[context.name], "r")
        decoder.extradata = context.extradata
        return decoder

    def _demuxed(self) -> Iterator[Any]:
        """All packets, on one clock where recordings were joined; None where the decoder is to be emptied."""
        for packet in self._packets():
            if packet is None:
                yield None
                continue
            self._note(packet)
            if not self._raw and (packet.pts is not None or packet.dts is not None):
                time = None if packet.dts is None else packet.dts * packet.time_base
                if packet.stream.type in ("video", "audio"):
                    duration = (packet.duration or 0) * packet.time_base
                    shift = self._joins.shift(packet.stream.index, time, duration)
                else:
                    shift = self._joins.nearest(packet.pts * packet.time_base if time is None else time)
                ticks = round(shift / packet.time_base)
                packet.pts = None if packet.pts is None else packet.pts + ticks
                packet.dts = None if packet.dts is None else packet.dts + ticks
            yield packet

    def _packets(self) -> Iterator[Any]:
        """Packets as FFmpeg has them."""
        yield from self._container.demux()

    def _note(self, packet: Any) -> None:
        if packet.pts is not None and packet.time_base:
            self._seen_end = max(self._seen_end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if packet.pos is not None and packet.pos >= 0 and self._container.format.name.startswith("matroska"):
            self._gaps |= self._read_end is not None and packet.pos > self._read_end + _OVERHEAD
            self._read_end = packet.pos + packet.size
        if packet.is_corrupt and packet.stream is self._stream and self._damaged_at is None:
            self._damaged_at = self._time

    def _promised_end(self) -> Fraction | None:
        """When the file says that it ends, on its own clock in seconds; None when it does not say."""
        stream, container = self._stream, self._container
        if stream.duration is not None and not container.format.name.startswith("matroska"):
            return (stream.duration + (stream.start_time or 0)) * stream.time_base
        if container.duration is not None:
            # Matroska counts its duration from 0, not from the first packet, and has none of tracks
            return Fraction(container.duration, av.time_base)
        return None

    def _last_duration(self, said: Fraction) -> Fraction | None:
        """How long the last frame is shown, in seconds, where its packet says ``said`` (0: nothing)."""
        if self._raw:
            return self._clock.time_base
        if self._container.format.name.startswith("mov") and self._stream.duration is not None:
            end = self._promised_end()  # of the track: packets say how long until the next is decoded
            rest = Fraction(0) if end is None else end - self._origin - self._time
            said = rest if rest > 0 else said
        return said or None

    def _check_end(self, frames: int) -> None:
        promised = self._promised_end()
        format = self._container.format.name.split(",")[0]
        if format == "asf":
            promised = asf_length(Path(self.name))
        short = promised is not None and self._seen_end < promised - _TOLERANCE
        if promised is not None and short and format in ("flv", "asf"):  # live recordings may state a wrong length
            self.warnings.append(
                f"{self.name} is cut off: it ends after {frames} frames, at {float(self._time):.2f} s"
                f" of {float(promised):.2f} s"
            )
        if promised is not None and short and format in ("matroska", "mov"):
            raise VideoError(
                f"{self.name} is cut off: it ends after {frames} frames, at {float(self._time):.2f} s"
                f" of {float(promised):.2f} s\nget the whole file, or re-mux what there is to its true length"
            )
        if self._damaged_at is not None:
            self.warnings.append(
                f"{self.name} is damaged near {float(self._damaged_at):.2f} s: frames there may be wrong"
            )
        self._check_count(frames)
        if self._joins.count:
            self.warnings.append(
                f"{self.name}: its clock jumps ({self._joins.count}x): its recordings are played one after another"
            )

    def _check_count(self, frames: int) -> None:
        """Warn of frames that are missing, where the file states how many it has or how long it is."""
        missing = self._stream.frames - frames if self._counts and self._stream.frames else 0
        if missing <= 0 and (self._gaps or self._damaged_at is not None):  # else a pause is a pause
            missing = self._missing
        if missing > 0:
            seconds = f" ({float(missing / self._rate):.2f} s)" if self._rate else ""
            self.warnings.append(
                f"{self.name} is damaged: {missing} of its {frames + missing} frames{seconds} are missing"
            )


def is_pipe(source: str | Path) -> bool:
    """Whether an input passes only once: ``"-"``, a FIFO, a process substitution, a device."""
    path = Path(source)
    return str(source) == "-" or (path.exists() and not path.is_file() and not path.is_dir())


def _hdr10_metadata(frame: av.VideoFrame) -> tuple[str | None, str | None]:
    """Mastering display and content light level of a frame, in the notation of x265.

    Reference:
        SMPTE ST 2086 and CTA-861.3; the structures AVMasteringDisplayMetadata and AVContentLightMetadata of FFmpeg.
    """
    mastering = light = None
    packed = side_data(frame, "MASTERING_DISPLAY_METADATA")
    if packed is not None:
        numbers = struct.unpack("=22i", packed[:88])
        has_primaries, has_luminance = numbers[20:]
        if has_primaries and has_luminance and all(numbers[1:20:2]):
            values = [Fraction(numbers[i], numbers[i + 1]) for i in range(0, 20, 2)]
            red, green, blue, white = (
                "({},{})".format(*(round(value * 50000) for value in values[i : i + 2])) for i in (0, 2, 4, 6)
            )
            lowest, highest = (round(value * 10000) for value in values[8:])
            mastering = f"G{green}B{blue}R{red}WP{white}L({highest},{lowest})"
    packed = side_data(frame, "CONTENT_LIGHT_LEVEL")
    if packed is not None:
        light = "{},{}".format(*struct.unpack("=2I", packed[:8]))
    return mastering, light
