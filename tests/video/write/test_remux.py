from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import pytest

from flashvsr.video import SEGMENT_SUFFIX, Colors, VideoError, VideoInfo, VideoReader, VideoWriter, join_segments

SDR = VideoInfo(64, 48, Fraction(30000, 1001), Fraction(1, 90000), colors=Colors(1, 1, 1, 1))
HLG = replace(SDR, bit_depth=10, colors=Colors(9, 18, 9, 1))
LENGTHS = (17, 1, 9, 13)


def even_times(count):
    return [number * Fraction(1001, 30000) for number in range(count)]


def uneven_times(count):
    gaps = random.Random(5).choices([1500, 3003, 9000, 7], k=count)
    return [Fraction(sum(gaps[:number]), 90000) for number in range(count)]


def write_segments(folder, picture, info, times, lengths=LENGTHS):
    paths, number = [], 0
    for index, length in enumerate(lengths):
        paths.append(folder / f"{index}{SEGMENT_SUFFIX}")
        with VideoWriter(paths[-1], width=64, height=48, info=info) as writer:
            for _ in range(length):
                writer.write(picture(number), times[number])
                number += 1
    return paths


def decoded(path):
    with av.open(str(path)) as container:
        frames = [(frame.pts * frame.time_base, frame.to_ndarray().tobytes()) for frame in container.decode(video=0)]
    return [time - frames[0][0] for time, _ in frames], [pixels for _, pixels in frames]


def sound_of(path):
    with av.open(str(path)) as container:
        start = next(container.decode(video=0)).pts * container.streams.video[0].time_base
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        return [float(packet.pts * packet.time_base - start) for packet in packets], [
            bytes(packet) for packet in packets
        ]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("info", [SDR, HLG], ids=["h264", "hevc"])
@pytest.mark.parametrize("times_of", [even_times, uneven_times])
def test_joined_frames_and_times_are_those_of_the_segments(tmp_path, picture, ending, info, times_of):
    times = times_of(sum(LENGTHS))
    segments = write_segments(tmp_path, picture, info, times)
    assert join_segments(segments, tmp_path / f"joined.{ending}") == []
    joined_times, joined_pixels = decoded(tmp_path / f"joined.{ending}")
    assert joined_pixels == [pixels for path in segments for pixels in decoded(path)[1]]
    limit = Fraction(1, 1000) if ending == "mkv" else 0
    assert max(abs(a - b) for a, b in zip(joined_times, times, strict=True)) <= limit


def test_decoding_times_increase_and_are_not_after_the_picture(tmp_path, picture):
    join_segments(write_segments(tmp_path, picture, SDR, uneven_times(40)), tmp_path / "joined.mp4")
    with av.open(str(tmp_path / "joined.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert all(a.dts < b.dts for a, b in pairwise(packets))
    assert all(packet.dts <= packet.pts for packet in packets)
    assert sum(packet.is_keyframe for packet in packets) == len(LENGTHS)


def test_mp4_says_rate_tag_and_colours_and_has_its_index_in_front(tmp_path, picture):
    join_segments(write_segments(tmp_path, picture, HLG, even_times(40)), tmp_path / "joined.mp4")
    with av.open(str(tmp_path / "joined.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.frames == 40
        assert stream.average_rate == Fraction(30000, 1001)
        assert stream.codec_context.codec_tag == "hvc1"
    data = (tmp_path / "joined.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")
    assert b"nclx" in data
    with VideoReader(tmp_path / "joined.mp4") as reader:
        assert reader.info.colors == HLG.colors


def test_matroska_says_the_usual_rate(tmp_path, picture):
    join_segments(write_segments(tmp_path, picture, SDR, even_times(40)), tmp_path / "joined.mkv")
    with av.open(str(tmp_path / "joined.mkv")) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(("video_start", "audio_start"), [(0, 0), (Fraction(1, 2), 0), (0, Fraction(1, 2))])
def test_sound_is_copied_in_sync_with_the_first_frame(tmp_path, picture, write_av, ending, video_start, audio_start):
    source = write_av(tmp_path / "source.mp4", frames=40, video_start=video_start, audio_start=audio_start)
    with VideoReader(source) as reader:
        times = [frame.time for frame in reader]
    segments = write_segments(tmp_path, picture, SDR, times)
    assert join_segments(segments, tmp_path / f"joined.{ending}", source=source) == []
    before, after = sound_of(source), sound_of(tmp_path / f"joined.{ending}")
    assert after[1] == before[1]
    assert max(abs(a - b) for a, b in zip(after[0], before[0], strict=True)) <= 0.002
    joined_times, _ = decoded(tmp_path / f"joined.{ending}")
    assert max(abs(a - b) for a, b in zip(joined_times, times, strict=True)) <= Fraction(1, 1000)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_one_pass_keeps_the_same_sync_as_joining(tmp_path, picture, write_av, ending):
    source = write_av(tmp_path / "source.mp4", frames=40, video_start=Fraction(1, 2))
    with (
        VideoReader(source) as reader,
        VideoWriter(
            tmp_path / f"copy.{ending}", width=64, height=48, info=reader.info, copy_tracks_from=reader
        ) as writer,
    ):
        for frame in reader:
            writer.write(frame.pixels, frame.time)
    before, after = sound_of(source), sound_of(tmp_path / f"copy.{ending}")
    assert after[1] == before[1]
    assert max(abs(a - b) for a, b in zip(after[0], before[0], strict=True)) <= 0.002


def test_packets_outlive_the_reader_that_found_them(tmp_path, write_av):
    source = write_av(tmp_path / "source.mkv", frames=40)
    for _ in range(20):  # what is read from a closed file is often still there
        with VideoReader(source) as reader:
            writer = VideoWriter(tmp_path / "copy.mkv", width=64, height=48, info=reader.info, copy_tracks_from=reader)
            frames = list(reader)
        with writer:
            for frame in frames:
                writer.write(frame.pixels, frame.time)
        assert sound_of(tmp_path / "copy.mkv")[1] == sound_of(source)[1]


@pytest.mark.parametrize("ending", ["y4m", "avi", "h264", "265"])
def test_containers_without_times_play_at_the_rate_of_the_source(tmp_path, picture, ending):
    deep = HLG if ending == "265" else SDR
    options = {"codec": "rawvideo"} if ending == "y4m" else {}
    segments = []
    for index in range(2):
        segments.append(tmp_path / f"{index}{SEGMENT_SUFFIX}")
        with VideoWriter(segments[-1], width=64, height=48, info=deep, **options) as writer:
            for number in range(20 * index, 20 * index + 20):
                writer.write(picture(number), number * Fraction(1001, 30000))
    assert join_segments(segments, tmp_path / f"joined.{ending}") == []
    with VideoWriter(tmp_path / f"whole.{ending}", width=64, height=48, info=deep) as writer:
        for number in range(40):
            writer.write(picture(number), number * Fraction(1001, 30000))
    assert writer.warnings == []
    for name in ("joined", "whole"):
        with VideoReader(tmp_path / f"{name}.{ending}") as reader:
            assert len(list(reader)) == 40
            assert ending in ("h264", "265") or reader.info.frame_rate == Fraction(30000, 1001)


def test_uneven_times_that_a_container_cannot_hold_are_said(tmp_path, picture):
    times = [Fraction(number, 25) + (number > 10) for number in range(20)]
    segments = write_segments(tmp_path, picture, SDR, times, lengths=(9, 11))
    assert join_segments(segments, tmp_path / "joined.mkv") == []
    (line,) = join_segments(segments, tmp_path / "joined.avi")
    assert line.startswith("avi cannot hold the times of these frames: moved by up to 0.")


@pytest.mark.parametrize("codec", ["ffv1", "libvpx-vp9"])
def test_colours_that_the_codec_does_not_hold_are_those_of_the_source(tmp_path, picture, write_clip, codec):
    info = replace(SDR, colors=Colors(9, 18, 9, 1))
    source = write_clip(tmp_path / "source.mkv", even_times(4), info)
    segment = tmp_path / f"0{SEGMENT_SUFFIX}"
    with VideoReader(source) as reader, VideoWriter(segment, width=64, height=48, info=info, codec=codec) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame.time)
    join_segments([segment], tmp_path / "joined.mkv", source=source)
    with VideoReader(tmp_path / "joined.mkv") as reader:
        assert reader.info.colors == info.colors


def test_a_track_that_does_not_fit_is_one_warning_line(tmp_path, picture, write_av):
    source = write_av(tmp_path / "source.mkv", frames=10, audio="tta")
    segments = write_segments(tmp_path, picture, SDR, even_times(40))
    (line,) = join_segments(segments, tmp_path / "joined.mp4", source=source)
    assert "audio track 1 (tta)" in line
    assert "mp4 does not take it" in line
    assert "\n" not in line
    with av.open(str(tmp_path / "joined.mp4")) as container:
        assert not container.streams.audio
    assert join_segments(segments, tmp_path / "joined.mkv", source=source) == []


def test_subtitles_are_copied_where_they_fit(tmp_path, picture, write_clip):
    (tmp_path / "a.srt").write_text(
        "1\n00:00:00,200 --> 00:00:00,900\nHello\n\n2\n00:00:01,000 --> 00:00:01,200\nWorld\n"
    )
    clip = write_clip(tmp_path / "clip.mp4", even_times(40), SDR)
    source = tmp_path / "source.mkv"
    with av.open(str(clip)) as video, av.open(str(tmp_path / "a.srt")) as text, av.open(str(source), "w") as output:
        copies = [output.add_stream_from_template(each.streams[0], opaque=True) for each in (video, text)]
        for each, copy in zip((video, text), copies, strict=True):
            for packet in each.demux():
                if packet.size:
                    packet.stream = copy
                    output.mux(packet)
    segments = write_segments(tmp_path, picture, SDR, even_times(40))
    assert join_segments(segments, tmp_path / "joined.mkv", source=source) == []
    with av.open(str(tmp_path / "joined.mkv")) as container:
        lines = [
            (packet.pts * packet.time_base, bytes(packet)) for packet in container.demux(subtitles=0) if packet.size
        ]
    assert lines == [(Fraction(1, 5), b"Hello"), (1, b"World")]
    (line,) = join_segments(segments, tmp_path / "joined.mp4", source=source)
    assert line.startswith("subtitle track 1")


def test_sources_that_are_no_file_have_no_tracks(tmp_path, picture):
    segments = write_segments(tmp_path, picture, SDR, even_times(40))
    for source in (None, "example:", tmp_path, "-"):
        assert join_segments(segments, tmp_path / "joined.mp4", source=source) == []


def test_segments_that_do_not_belong_together_are_refused(tmp_path, picture):
    times = even_times(40)
    segments = write_segments(tmp_path, picture, SDR, times)
    target = tmp_path / "joined.mp4"
    with pytest.raises(VideoError, match="no segments"):
        join_segments([], target)
    with pytest.raises(VideoError, match="does not continue"):
        join_segments([segments[1], segments[0]], target)
    (tmp_path / "other").mkdir()
    (other,) = write_segments(tmp_path / "other", picture, HLG, times[20:], lengths=(2,))
    with pytest.raises(VideoError, match="other settings"):
        join_segments([segments[0], other], target)
    with pytest.raises(VideoError, match="cannot read segment"):
        join_segments([tmp_path / "missing.nut"], target)
    assert not target.exists()


def test_real_sound_survives_in_sync(tmp_path, picture, real_clips):
    for name in ("train/video/ax_building__sample_edit_list.mp4", "train/video/spice__1080p_004.ts"):
        source = real_clips / name
        with VideoReader(source) as reader:
            times = [frame.time for frame, _ in zip(reader, range(6), strict=False)]
        segments = write_segments(tmp_path, picture, SDR, times, lengths=(4, 2))
        for ending in ("mp4", "mkv"):
            warnings = join_segments(segments, tmp_path / f"joined.{ending}", source=source)
            assert all(line.startswith("data track") for line in warnings)
            before, after = sound_of(source), sound_of(tmp_path / f"joined.{ending}")
            assert len(after[0]) == len(before[0])
            assert max(abs(a - b) for a, b in zip(after[0], before[0], strict=True)) <= 0.002
