"""Clocks of files: what is repaired, what is kept."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
from PIL import Image

from flashvsr.video import VideoInfo, VideoReader, VideoWriter, join_segments
from flashvsr.video.timing import Clock, Joins


def test_the_clock_is_strictly_increasing_whatever_the_timestamps():
    clock = Clock(Fraction(1, 100), Fraction(25))
    assert [clock.tick(pts) for pts in (70, 74, 74, 78, 76, None, 90)] == [0, 4, 5, 8, 9, 13, 20]


def test_a_clock_without_timestamps_counts_frames():
    clock = Clock(Fraction(1001, 24000), Fraction(24000, 1001))
    assert [clock.tick(None) for _ in range(4)] == [0, 1, 2, 3]


def shifted(packets, *, restarts=True):
    """Times of packets, given as (track, time, duration) in seconds, after their shifts."""
    joins = Joins(restarts=restarts)
    return [round(float(time + joins.shift(track, Fraction(time), Fraction(step))), 3) for track, time, step in packets]


@pytest.mark.parametrize("start", [0, 3.4, 90, 100000])
def test_a_clock_that_jumps_goes_on_where_it_was(start):
    packets = [(0, 4 + n / 25, 0.04) for n in range(5)] + [(0, start + n / 25, 0.04) for n in range(5)]
    assert shifted(packets) == pytest.approx([4 + n / 25 for n in range(10)])


def test_tracks_of_one_recording_are_shifted_alike_in_whatever_order_they_jump():
    first = [(0, n / 2, 0.5) for n in range(8)], [(1, n / 4, 0.25) for n in range(17)]  # the sound is longer
    second = [(0, 100 + n / 2, 0.5) for n in range(4)], [(1, 100 + n / 4, 0.25) for n in range(8)]
    for order in ((0, 1), (1, 0)):
        packets = first[0] + first[1] + second[order[0]] + second[order[1]]
        times = shifted(packets)
        starts = {
            track: next(t for (n, time, _), t in zip(packets, times, strict=True) if n == track and time == 100)
            for track in (0, 1)
        }
        assert starts[0] == starts[1] == (4.0, 4.25)[order[0]]


def test_packets_of_the_old_recording_that_come_late_stay_where_they_are():
    packets = [(0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 50, 1), (1, 1, 1), (1, 50, 1), (0, 51, 1)]
    assert shifted(packets) == [0, 0, 1, 2, 1, 2, 3]


@pytest.mark.parametrize(
    ("times", "restarts"),
    [
        ([0, 0.04, 9.9, 9.94], True),
        ([0, 15, 30, 45], True),
        ([0, 0.04, 600, 600.04], False),
        ([5, 5.2, 4.9, 5.3], False),
    ],
)
def test_pauses_and_slow_rates_are_no_jumps(times, restarts):
    step = Fraction(times[1]) - Fraction(times[0])
    assert shifted([(0, time, step) for time in times], restarts=restarts) == times


def test_subtitles_follow_the_recording_that_is_played():
    joins = Joins(restarts=True)
    for time in (0, 1, 2, 3, 100, 101):
        joins.shift(0, Fraction(time), Fraction(1))
    assert 101 + joins.nearest(Fraction(101)) == 5
    assert 3 + joins.nearest(Fraction(3)) == 3


def written(reader, target, *, whole, codec="auto"):
    """Copy a video, in one pass or by way of segments."""
    info = reader.info
    options = {"width": info.width, "height": info.height, "info": info, "codec": codec}
    first = target if whole else target.with_name("segment.nut")
    with reader, VideoWriter(first, copy_tracks_from=reader if whole else None, **options) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame.time)
    if not whole:
        join_segments([first], target, source=info.source, last_duration=reader.last_duration)


def seconds(path, kind):
    """Times of the frames or packets of a file, in order of presentation."""
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return sorted(packet.pts * packet.time_base for packet in container.demux(stream) if packet.size)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("ending", ["mkv", "mp4", "ts"])
@pytest.mark.parametrize(
    ("format", "codecs", "starts"),
    [
        ("mpegts", ("libx264", "aac"), (0, 86)),
        ("mpegts", ("libx264", "aac"), (90, 0)),
        ("mpegts", ("libx264", "aac"), (1, "7/5")),
        ("mpegts", ("mpeg2video", "mp2"), (5, 0)),
        ("vob", ("mpeg2video", "ac3"), (0, 0)),
        ("vob", ("mpeg2video", "mp2"), (40, 3)),
    ],
)
def test_joined_recordings_play_one_after_the_other_in_sync(tmp_path, write_av, format, codecs, starts, ending, whole):
    parts = []
    for number, start in enumerate(starts):
        start = Fraction(start)
        path = write_av(
            tmp_path / f"{number}.{format}",
            frames=50,
            codec=codecs[0],
            audio=codecs[1],
            video_start=start,
            audio_start=start,
            format=format,
        )
        parts.append(path.read_bytes())
    source = tmp_path / "joined"
    source.write_bytes(b"".join(parts))
    out = tmp_path / f"out.{ending}"
    reader = VideoReader(source)
    written(reader, out, whole=whole)
    assert any("clock jumps" in warning for warning in reader.warnings)
    pictures, sounds = seconds(out, "video"), seconds(out, "audio")
    assert len(pictures) == 100
    assert all(0.03 < b - a < 0.1 for a, b in pairwise(pictures))
    assert pictures[-1] - pictures[0] == pytest.approx(99 / 25, abs=0.06)
    assert [b - a for a, b in pairwise(sounds) if not 0 <= b - a < 0.1] == []
    assert sounds[-1] - pictures[-1] == pytest.approx(sounds[0] - pictures[0], abs=0.1)


def pictures(path):
    """Times of the frames of a file, from the first on, and the length of its picture, in seconds."""
    with VideoReader(path) as reader:
        times = [float(frame.time) for frame in reader]
        return times, times[-1] + float(reader.last_duration)


def held(path, times, last):
    """A clip whose frames come at these times, the last of them shown for ``last`` seconds."""
    with av.open(str(path), "w") as container:
        codec = "libvpx-vp9" if path.suffix == ".webm" else "ffv1" if path.suffix == ".mkv" else "mjpeg"
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * number % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet, end in zip(packets, [*times[1:], times[-1] + last], strict=True):
            packet.duration = round(1000 * end) - packet.pts
            container.mux(packet)
    return path


CASES = {
    "pause": ([0, 0.04, 30, 30.04], 0.04),
    "hour": ([0, 3600, 3600.04], 0.04),
    "slow": ([5 * number for number in range(12)], 5),
    "slides": ([0, 20, 45, 100], 12),
    "held": ([0, 0.1, 0.2, 0.3], 5),
    "held before": ([0, 0.1, 0.2, 12.2], 0.1),
    "one": ([0], 1 / 30),
    "two": ([0, 7], 3),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("ending", "codec"),
    [("mp4", "libx264"), ("mp4", "libx265"), ("mkv", "libx264"), ("webm", "libvpx-vp9"), ("mov", "mjpeg")],
)
@pytest.mark.parametrize("case", CASES)
def test_pauses_and_the_length_of_the_last_frame_come_through(tmp_path, case, ending, codec, whole):
    times, last = CASES[case]
    for source in (held(tmp_path / f"in.{kind}", times, last) for kind in ("mkv", "mov", "webm")):
        assert pictures(source) == (pytest.approx(times, abs=0.001), pytest.approx(times[-1] + last, abs=0.002))
        out = tmp_path / f"out.{ending}"
        written(VideoReader(source), out, whole=whole, codec=codec)
        assert pictures(out) == (pytest.approx(times, abs=0.002), pytest.approx(times[-1] + last, abs=0.002))
        with av.open(str(out)) as container:
            assert container.duration / av.time_base == pytest.approx(times[-1] + last, abs=0.002)


@pytest.mark.parametrize("ending", ["flv", "ts", "nut", "mkv", "mp4"])
def test_a_slow_clip_begins_at_once(tmp_path, ending):
    source = held(tmp_path / "in.mkv", [0, 10, 20, 30, 40, 50], 10)
    out = tmp_path / f"out.{ending}"
    written(VideoReader(source), out, whole=True, codec="libx264")
    with av.open(str(out)) as container:
        first = next(container.decode(video=0))
        assert 0 <= first.pts * first.time_base < 2


def test_a_pause_in_a_clock_of_nanoseconds_fits_into_mp4(tmp_path, picture):
    times = [Fraction(0), Fraction(1, 25), Fraction(4000)]
    for whole in (True, False):
        info = VideoInfo(64, 48, Fraction(25), Fraction(1, 10**9))
        first = tmp_path / ("out.mp4" if whole else "segment.nut")
        with VideoWriter(first, width=64, height=48, info=info) as writer:
            for number, time in enumerate(times):
                writer.write(picture(number), time)
        if not whole:
            join_segments([first], tmp_path / "out.mp4")
        assert pictures(tmp_path / "out.mp4")[0] == pytest.approx([float(time) for time in times], abs=1e-5)


def test_an_animated_gif_keeps_the_length_of_its_last_picture(tmp_path):
    colours = [Image.new("RGB", (64, 48), (60 * number, 0, 0)) for number in range(4)]
    lengths = [100, 100, 100, 5000]
    colours[0].save(tmp_path / "in.gif", save_all=True, append_images=colours[1:], duration=lengths)
    for whole in (True, False):
        for ending in ("mp4", "mkv"):
            written(VideoReader(tmp_path / "in.gif"), tmp_path / f"out.{ending}", whole=whole)
            assert pictures(tmp_path / f"out.{ending}")[1] == pytest.approx(5.3)


def test_images_and_raw_video_are_shown_for_a_frame_at_their_rate(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "00001.png")
    for whole in (True, False):
        written(VideoReader(tmp_path / "%05d.png", fps=Fraction(50)), tmp_path / "out.mp4", whole=whole)
        assert pictures(tmp_path / "out.mp4")[1] == pytest.approx(1 / 50)
