"""Frames of video files and pipes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Any

import av

from flashvsr.video.info import VideoError, VideoFrame, VideoInfo, plain_errors
from flashvsr.video.matroska import needs_dolby_vision
from flashvsr.video.picture.alpha import is_transparent
from flashvsr.video.picture.crop import container_crop
from flashvsr.video.picture.hdr10 import dynamic_metadata, hdr10_metadata
from flashvsr.video.picture.pixels import (
    ToRGB,
    bit_depth,
    display_matrix,
    frame_colors,
    resolve_colors,
    rotation_degrees,
)
from flashvsr.video.read.damage import Damage
from flashvsr.video.read.decode import PictureDecoder
from flashvsr.video.read.deinterlace import Deinterlace, Plan, Timed, deinterlace, plan, watch
from flashvsr.video.read.demux import Demuxer, is_pipe
from flashvsr.video.tags import Tags
from flashvsr.video.timing import Clock
from flashvsr.video.tracks import TrackQueue, describe_track
from flashvsr.video.trim import WHOLE, Trim

_MOST_AHEAD = 20  # frames by which an encoder reorders at most
_INTERLEAVED = 10  # seconds by which sound lies behind its picture in a file at most


class FileSource:
    """The frames of a file, of stdin or of a live stream; see `VideoReader` for what is promised.

    Rotation and cropping are applied. Packets of other tracks go into ``tracks``.

    Args:
        demuxer: The open file; it is closed with this.
        fps: Frame rate for streams without timestamps.
        begin: As for `VideoReader`.
        trim: The part that is wanted.
        deinterlace: As for `VideoReader`.
    """

    def __init__(
        self,
        demuxer: Demuxer,
        *,
        fps: Fraction | None = None,
        begin: Fraction = Fraction(0),
        trim: Trim = WHOLE,
        deinterlace: Deinterlace = "off",
    ) -> None:
        self.warnings: list[str] = []
        self.name = demuxer.name
        self._demuxer, self._trim = demuxer, trim
        self.tracks = TrackQueue([])
        try:
            self.tracks = TrackQueue(demuxer.other_streams(), Tags.read(demuxer.container, demuxer.stream))
            self._origin = Fraction(0)  # of the first frame, on the file's clock, in seconds
            self._crop = container_crop(demuxer.stream)
            time_base, self._rate = self._time_base_and_rate(fps)
            self._clock = Clock(time_base, self._rate)
            self._decoder, self._damage = PictureDecoder(demuxer), Damage(demuxer, self._rate)
            self._began = Fraction(0)
            self._shown = 0  # how many ticks the last frame is shown
            self.last_duration: Fraction | None = None
            self._decoded = self._decode()
            first = self._first_frame()
            self._plan, self._frames = self._planned(first, deinterlace)
            self._wanted = deinterlace
            self.enters = demuxer.enters and self._plan.mode == "off"
            self.info = self._describe(first)
            self._first = self._enter(begin)
            self._warn(first)
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
        number, last = 0, self._damage.time
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
        self.last_duration = None if shown is None else shown + self._damage.time - last
        self.warnings += self._damage.at_the_end()

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
        self._demuxer.close()

    def _planned(self, first: av.VideoFrame, wanted: Deinterlace) -> tuple[Plan, Iterator[Timed]]:
        """What is done with the fields of the video, and the frames that come of it."""
        codec = self._demuxer.stream.codec_context
        chosen, frames = plan(
            chain([first], self._decoded),
            "off" if codec.name == "theora" else wanted,  # whose repeated frames are one object
            field_order=codec.field_order,
            codec=codec.name,
        )
        self.warnings += [f"{self.name} is {chosen.reason}"] if chosen.reason else []
        timed = self._timed(frames)
        if chosen.mode != "off":
            return chosen, deinterlace(timed, chosen, self.name)
        return chosen, self._watched(timed, wanted)

    def _watched(self, frames: Iterator[Timed], wanted: Deinterlace) -> Iterator[Timed]:
        return watch(frames, self.name, self.warnings) if wanted == "auto" else frames

    def _warn(self, first: av.VideoFrame) -> None:
        """Say what the result will lack, or have wrong."""
        if self.tracks.tags.has_timecode and (self._began or self._plan.mode == "film"):
            self.tracks.tags = self.tracks.tags.without_timecode()
            self.warnings.append(f"{self.name}: its timecode is not copied, for frames are counted anew")
        for name in dynamic_metadata(first):
            self.warnings.append(f"{self.name}: its {name} metadata is not copied: it is about other pixels")
        if needs_dolby_vision(self._demuxer.stream):
            self.warnings.append(
                f"{self.name} is Dolby Vision whose colours (IPTPQc2) only its players know: those of the result"
                " will be wrong; convert it to HDR10 first"
            )
        if self._demuxer.hides_its_sound():
            self.warnings.append(f"{self.name} has its sound switched off: players may play that of the result")

    def _timed(self, frames: Iterator[av.VideoFrame]) -> Iterator[Timed]:
        """Decoded frames, and when they are shown."""
        for frame in frames:
            time = self._clock.tick(self._decoder.stamp(frame)) * self._clock.time_base
            self._damage.note_frame(time)
            self._shown = frame.duration
            yield Timed(frame, time)

    def _enter(self, begin: Fraction) -> Timed | None:
        """The first frame that is wanted; those before are left out, and other tracks are cut."""
        trim, origin = self._trim, self.tracks.origin
        if trim == WHOLE:
            return self._go_to(begin) if begin else next(self._frames)
        if trim.start:
            self.tracks.cut(origin + trim.start, None)  # what comes before is not to be kept meanwhile
        timed = self._go_to(trim.start) if begin else self._next(trim.start)
        if timed is None:
            raise VideoError(trim.too_late(self.name, self._damage.time))
        self._began = timed.time
        end = None if trim.end is None else origin + trim.end
        self.tracks.cut(origin + self._began if self._began else None, end)
        self.tracks.tags = self.tracks.tags.cut(origin + self._began, end)
        self.tracks.origin = origin + self._began
        if self.info.frames and (rate := self.info.frame_rate):
            rest = self.info.frames - round(self._began * rate)
            asked = rest if trim.end is None else round((trim.end - self._began) * rate)
            self.info = replace(self.info, frames=max(1, min(rest, asked)))
        return self._go_to(self._began + begin) if begin else timed

    def _next(self, time: Fraction) -> Timed | None:
        """The next frame that is shown at this time or later, in seconds since the first frame of the file."""
        return next((timed for timed in self._frames if timed.time >= time), None)

    def _go_to(self, time: Fraction) -> Timed | None:
        """The same, in a file that `enters` from the key frame before it.

        Where that is only known by when it is decoded, it may be shown later; so one well before is taken, and an
        earlier one when what can be decoded from there begins too late.
        """
        back = max(Fraction(1), Fraction(_MOST_AHEAD) / (self._rate or 25))
        while self.enters:
            with self._plainly():
                self._demuxer.enter(self._origin + max(Fraction(0), time - back))
            self._clock.enter(round(self._origin / self._clock.time_base))
            self._damage.enter()
            self._decoder = PictureDecoder(self._demuxer)
            self._frames = self._watched(self._timed(self._decode()), self._wanted)
            first = next(self._frames, None)
            if first is not None and first.time <= time:
                return first if first.time == time else self._next(time)
            if back > time:
                return first
            back *= 4
        return self._next(time)

    def _is_past(self, time: Fraction) -> bool:
        return self._trim.end is not None and time >= self._trim.end

    def _other_packets(self) -> Iterator[Any]:
        """Packets of other tracks in what is left of the file, or of its part that is wanted; nothing is decoded."""
        with self._plainly():
            for packet in self._demuxer.packets():
                if packet.stream.index != self._demuxer.stream.index:
                    yield packet
                time = None if packet.dts is None else packet.dts * packet.time_base - self._origin
                if time is not None and self._is_past(time - _INTERLEAVED):
                    return

    def _plainly(self) -> Any:
        return plain_errors(
            lambda: f"{self.name} is damaged or cut off at {float(self._damage.time):.2f} s",
            "what comes before is fine: repair the file, or cut it there first",
        )

    def _time_base_and_rate(self, fps: Fraction | None) -> tuple[Fraction, Fraction | None]:
        stream = self._demuxer.stream
        if self._demuxer.raw:
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
        if frame is None and self._demuxer.container.format.name == "webp_pipe":
            raise VideoError(f"{self.name} is an animated WebP, which is not read from a pipe\nname its file")
        if frame is None:
            raise VideoError(f"{self.name} has no frames that can be decoded\nit is empty or damaged")
        self._decoder.begin(frame)
        stamp = self._decoder.stamp(frame)
        if stamp is not None:
            self._origin = self.tracks.origin = stamp * self._demuxer.stream.time_base
        return frame

    def _describe(self, frame: av.VideoFrame) -> VideoInfo:
        stream = self._demuxer.stream
        matrix = display_matrix(frame)
        turned = matrix[0] == 0
        width, height = self._crop.size(frame.width, frame.height)
        aspect = Fraction(stream.sample_aspect_ratio or 1)
        end, start, rate = self._demuxer.promised_end(), self._origin, self._rate
        estimate = stream.frames or (round((end - start) * rate) if rate and end is not None else 0)
        mastering, light = hdr10_metadata(frame)
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
            is_pipe=is_pipe(self._demuxer.source),
            mastering_display=mastering,
            content_light=light,
            has_alpha=is_transparent(frame),
            source=self.name,
        )

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Frames in order; packets of other tracks go to the queue on the way."""
        with self._plainly():
            for packet in self._demuxer.packets():
                if packet is None:
                    yield from self._decoder.decode(None)
                elif packet.stream.index == self._demuxer.stream.index:
                    self._damage.note_packet(packet)
                    yield from self._decoder.decode(packet)
                else:
                    self.tracks.push(packet)

    def _last_duration(self, said: Fraction) -> Fraction | None:
        """How long the last frame is shown, in seconds, where its packet says ``said`` (0: nothing)."""
        if self._demuxer.raw:
            return self._clock.time_base
        if self._demuxer.container.format.name.startswith("mov") and self._demuxer.stream.duration is not None:
            end = self._demuxer.promised_end()  # of the track: packets say how long until the next is decoded
            rest = Fraction(0) if end is None else end - self._origin - self._damage.time
            said = rest if rest > 0 else said
        return said or None
