"""A part of a video without re-encoding: its packets, from a key frame to where nothing later is needed."""

from __future__ import annotations

import io
from fractions import Fraction
from typing import Any

import av

from flashvsr.curate.rows import Row
from flashvsr.curate.stages.spans import open_picture, seek

_EARLY = 1  # seconds before a clip to begin reading: MPEG-TS seeks past a key frame that is aimed at


def copy_packets(row: Row, trim: float) -> tuple[bytes, int, int, int] | None:
    """Copy a clip into an MP4 of its own.

    The clip begins at the first key frame and ends where all pictures so far can be decoded without later ones; both
    may cost up to ``trim`` seconds. The result is decoded once: every frame must be there, at a constant rate.

    Args:
        row: Start and end of the clip.
        trim: Seconds by which it may be shortened at either end.

    Returns:
        The file, its first tick, the tick after its end, its number of frames; None when it cannot be copied: no key
        frame is near enough, two frames have one time, MP4 does not take it, or what came out does not decode.
    """
    slack = round(trim / Fraction(row.time_base))
    with open_picture(row.path) as (container, stream):
        packets = _packets(container, stream, row.start, row.end)
        if not packets or packets[0].pts - row.start > slack:
            return None
        packets = packets[: _closed_prefix([packet.pts for packet in packets], row.end)]
        if not packets or len({packet.pts for packet in packets}) < len(packets):
            return None
        end = max(packet.pts + (packet.duration or 0) for packet in packets)
        if row.end - end > slack:
            return None
        start, count = packets[0].pts, len(packets)
        try:
            media = _mux(stream, packets)
        except av.FFmpegError:  # what MP4 does not take can still be encoded
            return None
    return (media, start, min(end, row.end), count) if _decodes(media, count) else None


def _packets(container: Any, stream: Any, start: int, end: int) -> list[Any]:
    """Packets from the first key frame at ``start`` or later, in decoding order, until all before ``end`` came."""
    seek(container, stream, start - round(_EARLY / stream.time_base))
    packets: list[Any] = []
    for packet in container.demux(stream):
        if packet.pts is None or not packet.size:
            continue
        if not packets and not (packet.is_keyframe and packet.pts >= start):
            if packet.pts >= end:
                break
            continue
        if packet.dts is not None and packet.dts >= end:
            break
        if packets and packet.pts < packets[0].pts:
            continue  # shown before the key frame: it needs what came before
        packets.append(packet)
    return packets


def _closed_prefix(times: list[int], end: int) -> int:
    """Length of the longest prefix, in decoding order, that holds all frames up to its last and none at ``end``."""
    earliest_later = [0] * len(times) + [1 << 62]
    for number in range(len(times) - 1, -1, -1):
        earliest_later[number] = min(times[number], earliest_later[number + 1])
    latest, best = -(1 << 62), 0
    for number, time in enumerate(times):
        latest = max(latest, time)
        if latest >= end:
            break
        if latest < earliest_later[number + 1]:
            best = number + 1
    return best


def _decoding_times(times: list[int]) -> list[int]:
    """When to decode each packet: the n-th when the (n - delay)-th frame is shown, where B-frames cause the delay.

    They are made anew because not every container has them (Matroska does not), and what FFmpeg guesses instead has
    gaps at the beginning.

    Args:
        times: Of presentation, different from each other, in decoding order; the first is the smallest.
    """
    shown = sorted(times)
    place = {time: number for number, time in enumerate(shown)}
    delay = max(number - place[time] for number, time in enumerate(times))
    ahead = shown[delay] - shown[0]
    return [shown[n] - ahead if n < delay else shown[n - delay] for n in range(len(times))]


def _mux(template: Any, packets: list[Any]) -> bytes:
    buffer, origin = io.BytesIO(), packets[0].pts
    with av.open(buffer, "w", format="mp4", container_options={"fflags": "+bitexact"}) as output:
        stream = output.add_stream_from_template(template, opaque=True)
        stream.time_base = template.time_base
        stream.metadata.clear()
        if template.codec_context.name == "hevc":
            stream.codec_context.codec_tag = "hvc1"
        for packet, decoded in zip(packets, _decoding_times([packet.pts for packet in packets]), strict=True):
            packet.pts, packet.dts, packet.stream = packet.pts - origin, decoded - origin, stream
            output.mux(packet)
    return buffer.getvalue()


def _decodes(media: bytes, frames: int) -> bool:
    """Whether a file holds so many whole frames, numbered without a gap by its rate, as `clips.decode_clip` does."""
    try:
        with av.open(io.BytesIO(media), "r") as container:
            stream = container.streams.video[0]
            rate, time_base, origin = stream.average_rate, stream.time_base, stream.start_time or 0
            if rate is None or time_base is None:
                return False
            numbers = [
                -1 if frame.is_corrupt or frame.pts is None else round((frame.pts - origin) * time_base * rate)
                for frame in container.decode(stream)
            ]
    except av.FFmpegError:
        return False
    return numbers == list(range(frames))
