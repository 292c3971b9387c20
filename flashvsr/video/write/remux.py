"""Joining encoded segments, and copying audio and subtitles beside them, without re-encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.bitstream import BitStreamFilterContext

from flashvsr.video.info import VideoError, file_url, plain_errors
from flashvsr.video.picture.pixel_shape import PixelShape
from flashvsr.video.picture.pixels import output_colors, tag
from flashvsr.video.read.demux import Demuxer
from flashvsr.video.read.file_source import FileSource
from flashvsr.video.read.webp import is_animated_webp
from flashvsr.video.timing import Ticks, before_the_first, last_to_add
from flashvsr.video.tracks import TrackCopier
from flashvsr.video.trim import WHOLE, Trim
from flashvsr.video.write.formats import ADDS_UP, clock_of, discard, keeps_times, open_output, pick_format

_HEADERS_IN_PLACE = ("h264", "hevc")  # raw streams: NUT keeps the parameter sets in its header, these have none
# codecs whose tag distinguishes their variants: the layout of pixels, the profile
_KNOWN_BY_TAG = ("rawvideo", "utvideo", "prores", "avrp", "dnxhd")
# NAL units of supplemental information, which may name the machine's thread count: H.264, HEVC
_REMARKS = {"h264": (lambda first: first & 31, (6,)), "hevc": (lambda first: first >> 1 & 63, (39, 40))}


def join_segments(
    segments: Sequence[Path],
    target: Path,
    *,
    source: str | Path | None = None,
    format: str = "auto",
    last_duration: Fraction | None = None,
    trim: Trim = WHOLE,
) -> list[str]:
    """Concatenate segments written by `VideoWriter` and add the source's audio and subtitles.

    Nothing is re-encoded; times stay what they were (to 1 ms in Matroska). Decoding times are made anew from the
    presentation times of all frames, so they increase across segments whatever their B-frames.
    The file is written at ``target`` itself: pass a temporary name with the right ending beside the final one
    (``clip.partial/joined.mp4``) and rename it when this returns; on an error it is deleted.

    Args:
        segments: Files with the ending that `segment_suffix` gives, in order, each its own encode with the same
            settings (so each starts with a key frame), written with times on one clock: segment k+1 starts after the
            last frame of segment k.
        target: Where to write; its ending picks the container unless ``format`` does. MP4 gets its index in front.
        source: The file to copy tracks from; None, a folder, a pattern or ``example:`` for pictures only.
        format: As for `VideoWriter`.
        last_duration: How long the last frame is shown, in seconds; None: as long as the one before.
        trim: The part of the source that the segments show.

    Returns:
        Warning lines, one per track that the container does not take.

    Raises:
        VideoError: No segments, segments that differ in codec or size or do not continue, an unreadable segment or
            source, a disk that is full.
    """
    if not segments:
        raise VideoError("there are no segments to join\nrun the upscaling again without --resume")
    container = pick_format(target, format)
    plan = replace(_plan(segments), last_duration=last_duration)
    longest = max((b - a for a, b in pairwise(plan.shown)), default=0)
    clock = clock_of(container, plan.time_base, longest) if keeps_times(container) else 1 / _frame_rate(plan)
    if clock != plan.time_base:
        plan = plan.on_clock(clock)
    reader = FileSource(Demuxer(str(source)), trim=trim) if _has_tracks(source) else None
    output = open_output(target, container, plan.time_base, shift=reader is not None)
    try:
        with plain_errors(f"cannot write {target}", "check the disk and the folder"):
            warnings = _write(output, Path(target), plan, segments, reader)
        if reader is not None:
            warnings += reader.tracks.tags.lost(Path(target), container)
    except BaseException:
        discard(output, Path(target))
        raise
    finally:
        if reader is not None:
            reader.close()
    return warnings


@dataclass(frozen=True)
class _Plan:
    """What all segments together look like.

    Attributes:
        time_base: Of every time that is written.
        found: Presentation times of all frames in the segments, in order of presentation.
        shown: The times to write for them.
        delay: Frames that must be decoded ahead, at most, because of B-frames.
        last_duration: How long the source shows its last frame, in seconds; None when it does not say.
        ticks: What gave the times to write, when they are not those found.
    """

    time_base: Fraction
    found: list[int]
    shown: list[int]
    delay: int
    last_duration: Fraction | None = None
    ticks: Ticks | None = None

    def on_clock(self, time_base: Fraction) -> _Plan:
        """The same with other ticks."""
        ticks = Ticks(time_base)
        shown = [ticks.tick((time - self.found[0]) * self.time_base) for time in self.found]
        return replace(self, time_base=time_base, shown=shown, ticks=ticks)

    @property
    def last(self) -> int:
        """How long the last frame is shown, in ticks: as the source says, else as long as the one before."""
        if self.last_duration is not None:
            return max(1, round(self.last_duration / self.time_base))
        if len(self.shown) > 1:
            return self.shown[-1] - self.shown[-2]
        return max(1, round(1 / (25 * self.time_base)))


def _plan(segments: Sequence[Path]) -> _Plan:
    """Look at all segments before anything is written."""
    shown: list[int] = []
    delay = 0
    first: tuple[Any, ...] | None = None
    time_base = Fraction(0)
    for path in segments:
        with _opened(path) as container:
            stream = container.streams.video[0]
            settings = _settings(stream)
            first = first or settings
            time_base = stream.time_base
            if settings != first:
                raise VideoError(
                    f"segment {path} was encoded with other settings than the first\nrun again without --resume"
                )
            decoded = [packet.pts for packet in _pictures(container)]
        if not decoded or (shown and min(decoded) <= shown[-1]):
            raise VideoError(f"segment {path} does not continue the one before\nrun again without --resume")
        order = sorted(decoded)
        place = {pts: index for index, pts in enumerate(order)}
        delay = max(delay, *(index - place[pts] for index, pts in enumerate(decoded)))
        shown += order
    return _Plan(time_base, shown, shown, delay)


def _has_tracks(source: str | Path | None) -> bool:
    """Whether a source is a file that FFmpeg reads, which may hold more than pictures."""
    return source is not None and Path(source).is_file() and not is_animated_webp(source)


def _write(output: Any, target: Path, plan: _Plan, segments: Sequence[Path], reader: FileSource | None) -> list[str]:
    """Mux pictures and tracks in step."""
    with _opened(segments[0]) as container:
        template = container.streams.video[0]
        try:
            stream = output.add_stream_from_template(template, opaque=True)
        except ValueError as error:
            raise VideoError(
                f"{output.format.name} does not take {template.codec_context.name} video\nuse another --format"
            ) from error
        stream.time_base = plan.time_base
        stream.metadata.update({key: tag for key, tag in template.metadata.items() if key.lower() == "alpha_mode"})
        stream.codec_context.framerate = _frame_rate(plan)  # the template's is its clock rate
        if template.codec_context.name in _KNOWN_BY_TAG:
            stream.codec_context.codec_tag = template.codec_context.codec_tag
        if template.codec_context.name == "hevc" and output.format.name in ("mp4", "mov", "ipod"):
            stream.codec_context.codec_tag = "hvc1"
        in_place = BitStreamFilterContext("dump_extra" if output.format.name in _HEADERS_IN_PLACE else "null", template)
        tracks = None
        if reader is not None:
            if not template.codec_context.format.is_rgb:  # NUT holds no colours, and not every codec does
                tag(stream.codec_context, output_colors(reader.info, template.codec_context.codec.canonical_name))
            if _counts_anew(plan, reader.info.frame_rate):
                reader.tracks.tags = reader.tracks.tags.without_timecode()
            packets = reader.packets()
            tracks = TrackCopier(output, reader.tracks, lambda: next(packets, None))
        aspect = reader.info.pixel_aspect if reader is not None else Fraction(template.sample_aspect_ratio or 1)
        shape = PixelShape(output, stream, aspect)
        output.start_encoding()
    lead = 0 if tracks is None else round(tracks.lead / plan.time_base)
    for found, pts, dts, duration in _timed(plan, segments, adds_up=output.format.name in ADDS_UP):
        (packet,) = in_place.filter(found)
        packet.pts, packet.dts, packet.duration, packet.time_base = pts + lead, dts + lead, duration, plan.time_base
        packet.stream = stream
        if tracks is not None:
            tracks.advance(packet.dts * plan.time_base)
        output.mux(packet)
    warnings = plan.ticks.warnings(output.format.name) if plan.ticks is not None else []
    if tracks is not None:
        tracks.advance(None)
        warnings += tracks.warnings
    output.close()
    return warnings + shape.finish(target)


def _timed(plan: _Plan, segments: Sequence[Path], *, adds_up: bool) -> Iterator[tuple[Any, int, int, int]]:
    """Packets of all segments in decoding order, each with its presentation time, decoding time and duration.

    The n-th packet is decoded when the (n - delay)-th frame is shown; the first ``delay`` come right before the first.
    """
    shown, number, first = plan.shown, 0, None
    durations = [b - a for a, b in pairwise(shown)] + [plan.last]
    places = {found: (time, duration) for found, time, duration in zip(plan.found, shown, durations, strict=True)}
    for path in segments:
        with _opened(path) as container:
            for packet in _pictures(container):
                early = plan.delay - number
                dts = before_the_first(shown, early, plan.time_base) if early > 0 else shown[-early]
                pts, duration = places[packet.pts]
                first = first or (pts, dts)
                number += 1
                if adds_up and number == len(shown):
                    duration = last_to_add(first, dts, shown[-1] + plan.last)
                yield packet, pts, dts, duration


def _counts_anew(plan: _Plan, rate: Fraction | None) -> bool:
    """Whether frames were dropped, as of film in video: a timecode of the source does not fit then."""
    times = _frame_rate(plan) / (rate or 25)
    return abs(times - max(1, round(times))) > Fraction(1, 10)


def _frame_rate(plan: _Plan) -> Fraction:
    """Average rate; a usual one (25, 30000/1001) when its frames would be where these are, to a tick."""
    count, length = len(plan.shown) - 1, (plan.shown[-1] - plan.shown[0]) * plan.time_base
    if count < 1:
        return Fraction(25)
    average = max(count / length, Fraction(1, 100_000))
    for usual in (Fraction(round(average)), Fraction(round(average * Fraction(1001, 1000)) * 1000, 1001)):
        if usual > 0 and abs(length - count / usual) <= plan.time_base:
            return usual
    return average.limit_denominator(100_000)


def _opened(path: Path) -> Any:
    with plain_errors(f"cannot read segment {path}", "run again without --resume"):
        return av.open(file_url(path))


def _pictures(container: Any) -> Iterator[Any]:
    return (packet for packet in container.demux(video=0) if packet.size)


def _settings(stream: Any) -> tuple[Any, ...]:
    """What must agree between segments: codec, size, pixels, and the parameter sets of the bit stream."""
    context = stream.codec_context
    extradata = bytes(context.extradata or b"")
    if context.name in _REMARKS and extradata[:3] in (b"\0\0\1", b"\0\0\0"):
        kind, remarks = _REMARKS[context.name]
        units = [unit.strip(b"\0") for unit in extradata.split(b"\0\0\1") if unit.strip(b"\0")]
        extradata = b"".join(unit for unit in units if kind(unit[0]) not in remarks)
    return context.name, context.width, context.height, context.pix_fmt, stream.time_base, extradata
