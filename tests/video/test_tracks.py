"""Tracks beside the picture keep their times, however dense their packets are."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from flashvsr.video import VideoReader, VideoWriter, join_segments

SECONDS = 3


def write_source(path, *, sound=None, events=()):
    """A clip of some seconds in Matroska with sound of a codec, or with subtitles at the times given."""
    with av.open(str(path), "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        others = []
        if sound is not None:
            track = container.add_stream(sound, rate=48000)
            track.codec_context.layout = "stereo"
            others = list(_sound(track))
        elif events:
            lines = "".join(
                f"Dialogue: 0,{_clock(time)},{_clock(time + 1)},D,,0,0,0,,{{\\p1}}m 0 0\n" for time in events
            )
            script = path.with_suffix(".ass")
            script.write_text(f"[Script Info]\n[V4+ Styles]\nFormat: Name\nStyle: D\n[Events]\n{HEAD}{lines}")
            with av.open(str(script)) as text:
                track = container.add_stream_from_template(text.streams[0], opaque=True)
                others = [packet for packet in text.demux() if packet.size]
            for packet in others:
                packet.stream = track
        for number in range(25 * SECONDS):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        container.mux(others)
    return path


HEAD = "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"


def _clock(time):
    return f"0:00:{time:05.2f}"


def _sound(track):
    """Packets of 40 samples, as TrueHD has them."""
    for number in range(1200 * SECONDS):
        packet = av.Packet(np.full(80, number % 100, np.int16).tobytes())
        packet.stream, packet.time_base = track, Fraction(1, 48000)
        packet.pts = packet.dts = 40 * number
        packet.duration = 40
        yield packet


def copied(source, target, *, whole):
    """Copy a video, in one pass or by way of a segment."""
    reader = VideoReader(source)
    options = {"width": 64, "height": 48, "info": reader.info}
    first = target if whole else target.with_name("segment.nut")
    with reader, VideoWriter(first, copy_tracks_from=reader if whole else None, **options) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame.time)
    return writer.warnings if whole else join_segments([first], target, source=source)


def times(path, kind):
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("ending", ["mkv", "mov", "nut"])
def test_sound_with_several_packets_in_a_millisecond_stays_in_time(tmp_path, ending, whole):
    source = write_source(tmp_path / "in.mkv", sound="pcm_s16le")
    before = times(source, "audio")
    assert len(before) > 1000 * SECONDS and any(a == b for a, b in pairwise(before))
    assert copied(source, tmp_path / f"out.{ending}", whole=whole) == []
    start = min(times(tmp_path / f"out.{ending}", "video"))
    after = [time - start for time in times(tmp_path / f"out.{ending}", "audio")]
    if ending == "mov":  # which is read in larger pieces
        assert after[-1] == pytest.approx(before[-1], abs=0.05)
    else:
        assert after == pytest.approx(before, abs=0.002)


@pytest.mark.parametrize("whole", [True, False])
def test_subtitles_of_one_time_stay_at_that_time(tmp_path, whole):
    events = [0.5] * 300 + [1.0] * 500 + [2.0]
    source = write_source(tmp_path / "in.mkv", events=events)
    assert times(source, "subtitle") == events
    copied(source, tmp_path / "out.mkv", whole=whole)
    assert times(tmp_path / "out.mkv", "subtitle") == events
