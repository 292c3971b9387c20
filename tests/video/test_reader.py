from __future__ import annotations

import csv
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from flashvsr.video import VideoError, VideoInfo, VideoReader


def read(source, **options):
    with VideoReader(source, **options) as reader:
        return reader.info, list(reader), reader.warnings


def test_times_are_exact_and_start_at_zero(tmp_path, write_clip):
    times = [number * Fraction(1001, 24000) for number in range(30)]
    info, frames, warnings = read(write_clip(tmp_path / "a.mp4", times))
    assert [frame.time for frame in frames] == [
        round(time * 90000) * Fraction(1, 90000) for time in times
    ]  # the writer's clock
    assert info.frames == 30
    assert not warnings


def test_a_variable_frame_rate_is_kept(tmp_path, write_clip):
    times = [Fraction(tick, 90000) for tick in (0, 3000, 3100, 45000, 45001, 90000)]
    _, frames, _ = read(write_clip(tmp_path / "a.mp4", times))
    assert [frame.time for frame in frames] == times


def test_skipping_is_exact(tmp_path, write_clip):
    path = write_clip(tmp_path / "a.mkv", [Fraction(number, 25) for number in range(20)])
    _, whole, _ = read(path)
    _, tail, _ = read(path, skip=13)
    assert [frame.time for frame in tail] == [frame.time for frame in whole[13:]]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(tail, whole[13:], strict=True))


@pytest.mark.parametrize("ending", ["mkv", "ts", "mp4"])
def test_a_late_start_is_relative_to_the_first_frame(tmp_path, write_av, ending):
    path = write_av(tmp_path / f"a.{ending}", frames=10, video_start=Fraction(3, 2))
    with VideoReader(path) as reader:
        frames = list(reader)
    assert [frame.time for frame in frames] == [Fraction(number, 25) for number in range(10)]
    assert reader.tracks is not None
    assert reader.tracks.lead({1}) > 1.4  # the sound starts that much earlier


@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuv420p10le", "gray"])
def test_pixel_formats_of_files_read_as_upright_rgb(tmp_path, write_av, layout):
    info, frames, _ = read(write_av(tmp_path / "a.mkv", pixel_format=layout, audio=None, frames=3))
    deep = "10" in layout
    assert info.bit_depth == (10 if deep else 8)
    assert frames[2].pixels.dtype == (torch.float32 if deep else torch.uint8)
    values = frames[2].pixels.float() * (255 if deep else 1)
    assert (values - 16).abs().max() <= 3  # x264 at its default quality


def test_the_first_picture_is_read_not_a_larger_one_nor_a_cover(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for size in (32, 64):
            stream = container.add_stream("libx264", rate=25)
            stream.width = stream.height = size
            streams.append(stream)
        for stream in streams:
            frame = av.VideoFrame(stream.width, stream.height, "yuv420p")
            frame.pts, frame.time_base = 0, Fraction(1, 25)
            container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    info, frames, _ = read(path)
    assert (info.width, len(frames)) == (32, 1)
    assert [track.kind for track in info.tracks] == ["video"]


def test_raw_streams_take_the_rate_asked_for(tmp_path, write_clip):
    path = write_clip(tmp_path / "a.264", [Fraction(number, 25) for number in range(12)], format="h264")
    info, frames, warnings = read(path, fps=Fraction(24000, 1001))
    assert info.frame_rate == Fraction(24000, 1001)
    assert [frame.time for frame in frames] == [number * Fraction(1001, 24000) for number in range(12)]
    assert not warnings
    _, _, warnings = read(path)
    assert "no timestamps" in warnings[0]
    assert "--fps" in warnings[0]


def test_a_rate_for_a_file_with_timestamps_is_not_used_and_says_so(tmp_path, write_clip):
    path = write_clip(tmp_path / "a.mp4", [Fraction(0), Fraction(1, 25)])
    _, frames, warnings = read(path, fps=Fraction(10))
    assert frames[1].time == Fraction(1, 25)
    assert "not used" in warnings[0]
    with pytest.raises(VideoError, match="frame rate 0"):
        VideoReader(path, fps=Fraction(0))


def test_what_is_wrong_with_a_file_is_said_in_two_lines(tmp_path, write_av):
    cases = {
        "missing.mp4": "no such file",
        "empty.mp4": "is empty",
        "text.mp4": "cannot read",
        "sound.mp4": "no video stream",
    }
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is not a video, although it is called one" * 40)
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for name, message in cases.items():
        with pytest.raises(VideoError, match=message) as caught:
            VideoReader(tmp_path / name)
        assert str(caught.value).count("\n") <= 1
        assert name in str(caught.value)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_truncated_file_delivers_its_good_frames_and_then_says_where_it_ends(tmp_path, write_clip, ending):
    times = [Fraction(number, 25) for number in range(75)]
    whole = write_clip(tmp_path / f"whole.{ending}", times).read_bytes()
    path = tmp_path / f"half.{ending}"
    path.write_bytes(whole[: len(whole) // 2])
    got = []
    with VideoReader(path) as reader, pytest.raises(VideoError, match=r"cut off.* s") as caught:
        got.extend(frame.time for frame in reader)
    assert 10 < len(got) < 60
    assert f"at {float(got[-1]):.2f} s" in str(caught.value)
    assert got == times[: len(got)] or ending == "mkv"
    assert str(caught.value).count("\n") <= 1


def test_a_change_of_size_is_an_error_that_says_when(tmp_path, write_clip):
    parts = []
    for name, width in (("a.ts", 64), ("b.ts", 96)):
        info = VideoInfo(width, 48, Fraction(25), Fraction(1, 90000))
        parts.append(write_clip(tmp_path / name, [Fraction(number, 25) for number in range(8)], info).read_bytes())
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    with VideoReader(tmp_path / "joined.ts") as reader, pytest.raises(VideoError, match=r"changes size at .* to 96x48"):
        list(reader)


def test_an_mp4_without_its_index_is_refused(tmp_path, write_av):
    whole = write_av(tmp_path / "whole.mp4").read_bytes()  # the index comes last
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match="beginning or end is missing"):
        VideoReader(tmp_path / "half.mp4")


def test_stdin_is_read_once_without_seeking(tmp_path, write_clip):
    path = write_clip(tmp_path / "a", [Fraction(number, 25) for number in range(10)], format="matroska")
    script = (
        "from flashvsr.video import VideoReader\n"
        "with VideoReader('-') as reader:\n"
        "    print(reader.info.is_pipe, reader.info.source, *(frame.time for frame in reader))"
    )
    with path.open("rb") as source:
        result = subprocess.run(
            [sys.executable, "-c", script], stdin=source, capture_output=True, text=True, check=True
        )
    assert result.stdout.split() == ["True", "stdin", *(str(Fraction(number, 25)) for number in range(10))]
    assert result.stderr == ""


def test_every_real_clip_opens_and_starts(real_clips):
    with (real_clips / "manifest.tsv").open(encoding="utf-8", newline="") as table:
        clips = [
            row for row in csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE) if "/video/" in row["file"]
        ]
    assert clips
    for said in clips:
        path, note = real_clips / said["file"], said["note"]
        with VideoReader(path) as reader:
            frames = [frame for frame, _ in zip(reader, range(2), strict=False)]
        info, size = reader.info, (int(said["w"]), int(said["h"]))
        assert len(frames) == 2, path
        assert frames[0].time == 0 < frames[1].time < Fraction(3, 2) / Fraction(said["fps"]), path
        assert frames[0].pixels.shape == (3, info.height, info.width), path
        assert float(info.frame_rate) == pytest.approx(float(said["fps"]), rel=0.15), path  # of the whole source
        assert (info.rotation != 0) == ("rot=[" in note), path
        assert (info.width, info.height) == (size[::-1] if info.rotation in (90, 270) else size), path
        assert info.bit_depth == (10 if "p10" in note else 8), path
        assert info.colors.transfer == 18 if "HLG" in note else info.is_hdr == ("PQ" in note), path


def test_a_portrait_clip_is_upright(real_clips):
    with VideoReader(real_clips / "val" / "video" / "ax_pegboard__portrait_4k60.mp4") as reader:
        frame = next(iter(reader))
    assert (reader.info.width, reader.info.height, reader.info.rotation) == (2160, 3840, 270)
    with av.open(str(real_clips / "val" / "video" / "ax_pegboard__portrait_4k60.mp4")) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="gray")
    shown = torch.from_numpy(np.rot90(stored, -1).copy()).float()  # the phone was turned: the top is on the left
    difference = frame.pixels.float().mean(0) - shown
    assert (difference - difference.mean()).abs().mean() < 6
