from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from flashvsr.video import Colors, VideoError, VideoInfo, VideoReader, VideoWriter

INFO = VideoInfo(64, 48, Fraction(24000, 1001), Fraction(1001, 24000))
HDR = replace(
    INFO,
    bit_depth=10,
    colors=Colors(9, 16, 9, 1),
    mastering_display="G(8500,39850)B(6550,2300)R(35400,14600)WP(15635,16450)L(10000000,1)",
    content_light="1000,200",
)
TIMES = [number * Fraction(1001, 24000) for number in range(12)]
HDR10 = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")  # side data of a frame


def picture_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        frames = list(container.decode(stream))
        return {
            "codec": context.name,
            "tag": context.codec_tag,
            "pixels": frames[0].format.name,
            "colors": tuple(int(tag) for tag in tags),
            "rate": stream.average_rate,
            "times": [frame.pts * frame.time_base for frame in frames],
            "aspect": stream.sample_aspect_ratio,
            "side": {name: bytes(item) for name in HDR10 if (item := frames[0].side_data.get(name))},
        }


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts", "nut"])
def test_sdr_becomes_h264_with_tags_rate_and_times(tmp_path, write_clip, ending):
    found = picture_of(write_clip(tmp_path / f"a.{ending}", TIMES, INFO))
    assert found["codec"] == "h264"
    assert found["pixels"] == "yuv420p"
    assert found["colors"] == (6, 6, 6, 1)  # untagged and small: bt601, and now it says so
    assert abs(found["rate"] - Fraction(24000, 1001)) < Fraction(1, 50)
    errors = [abs(a - found["times"][0] - b) for a, b in zip(found["times"], TIMES, strict=True)]
    limit = {"mkv": Fraction(1, 1000), "ts": Fraction(1, 90000)}.get(ending, 0)
    assert max(errors) <= limit


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_hdr_becomes_tagged_ten_bit_hevc_with_its_mastering_metadata(tmp_path, write_clip, ending):
    found = picture_of(write_clip(tmp_path / f"a.{ending}", TIMES, HDR))
    assert (found["codec"], found["pixels"]) == ("hevc", "yuv420p10le")
    assert found["colors"] == (9, 16, 9, 1)
    assert ending != "mp4" or found["tag"] == "hvc1"
    assert np.frombuffer(found["side"]["CONTENT_LIGHT_LEVEL"], np.uint32)[:2].tolist() == [1000, 200]
    with VideoReader(tmp_path / f"a.{ending}") as reader:
        assert reader.info.is_hdr
        assert reader.info.content_light == HDR.content_light
        assert reader.info.mastering_display == HDR.mastering_display


def test_hdr_in_webm_is_ten_bit_av1(tmp_path, write_clip):
    with VideoReader(write_clip(tmp_path / "a.webm", TIMES[:2], HDR)) as reader:
        assert (reader.info.bit_depth, reader.info.colors) == (10, HDR.colors)
    assert not reader.warnings


def test_hlg_and_deep_sdr_keep_ten_bits(tmp_path, write_clip):
    for colors in (Colors(9, 18, 9, 1), Colors(1, 1, 1, 1)):
        info = replace(INFO, bit_depth=10, colors=colors)
        found = picture_of(write_clip(tmp_path / "a.mp4", TIMES[:3], info))
        assert found["pixels"] == "yuv420p10le"
        assert found["colors"] == (colors.primaries, colors.transfer, colors.matrix, colors.range)


@pytest.mark.parametrize("colors", [Colors(), Colors(1, 1, 1, 1), Colors(5, 6, 5, 2), Colors(9, 14, 9, 1)])
@pytest.mark.parametrize("depth", [8, 10])
def test_colours_come_back_as_they_were(tmp_path, colors, depth):
    info = replace(INFO, colors=colors, bit_depth=depth)
    color = torch.tensor([0.8, 0.3, 0.15])[:, None, None].expand(3, 48, 64)
    with VideoWriter(tmp_path / "a.mp4", width=64, height=48, info=info, crf=4) as writer:
        writer.write(color, Fraction(0))
    with VideoReader(tmp_path / "a.mp4") as reader:
        (frame,) = reader
    got = frame.pixels.float() / (255 if depth == 8 else 1)
    assert (got - color).abs().max() * 255 < 2.5


def test_an_untagged_source_keeps_its_colours_when_enlarged_past_the_line_to_hd(tmp_path):
    color = torch.tensor([0.1, 0.7, 0.2])[:, None, None].expand(3, 720, 64)
    with VideoWriter(tmp_path / "a.mp4", width=64, height=720, info=INFO, crf=4) as writer:
        writer.write(color, Fraction(0))
    with VideoReader(tmp_path / "a.mp4") as reader:
        (frame,) = reader
    assert (frame.pixels.float() / 255 - color).abs().max() * 255 < 2.5


@pytest.mark.parametrize("ending", ["mp4", "nut"])
def test_a_variable_rate_is_exact_on_fine_and_coarse_clocks(tmp_path, write_clip, ending):
    for base in (Fraction(1, 90000), Fraction(1, 600), Fraction(1, 1000), Fraction(1, 23040000)):
        times = [tick * base for tick in (0, 20, 21, 100, 399, 400)]
        found = picture_of(write_clip(tmp_path / f"a.{ending}", times, replace(INFO, time_base=base)))
        assert found["times"] == times


def test_frames_at_one_time_are_moved_apart(tmp_path, write_clip):
    info = replace(INFO, time_base=Fraction(1, 1000))
    found = picture_of(write_clip(tmp_path / "a.mp4", [Fraction(0), Fraction(0), Fraction(1, 25)], info))
    assert found["times"] == [0, Fraction(1, 1000), Fraction(1, 25)]


def test_pixel_aspect_is_carried_over(tmp_path, write_clip):
    path = write_clip(tmp_path / "a.mp4", TIMES[:2], replace(INFO, pixel_aspect=Fraction(16, 11)))
    assert picture_of(path)["aspect"] == Fraction(16, 11)


@pytest.mark.parametrize("depth", [8, 10])
def test_odd_sizes_are_exact(tmp_path, write_clip, depth):
    path = write_clip(tmp_path / "a.mp4", TIMES[:3], replace(INFO, width=63, height=47, bit_depth=depth))
    with VideoReader(path) as reader:
        assert (reader.info.width, reader.info.height) == (63, 47)
        assert len(list(reader)) == 3


def test_an_odd_size_is_announced(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", width=63, height=48, info=INFO) as writer:
        writer.write(torch.zeros(3, 48, 63), Fraction(0))
    assert "yuv444p" in writer.warnings[0]


@pytest.mark.parametrize(
    ("codec", "ending", "name"),
    [("ffv1", "mkv", "ffv1"), ("libvpx-vp9", "webm", "vp9"), ("prores_ks", "mov", "prores")],
)
def test_other_encoders_can_be_named(tmp_path, write_clip, codec, ending, name):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}: it was not tried")
    found = picture_of(write_clip(tmp_path / f"a.{ending}", TIMES[:3], INFO, codec=codec))
    assert found["codec"].endswith(name)


def test_the_crf_changes_the_size(tmp_path, write_clip):
    small, large = (write_clip(tmp_path / f"{crf}.mp4", TIMES, INFO, crf=crf).stat().st_size for crf in (40, 5))
    assert small < large


def test_mp4_has_its_index_in_front(tmp_path, write_clip):
    data = write_clip(tmp_path / "a.mp4", TIMES, INFO).read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    assert b"nclx" in data  # colour tags of the container, beside those of the codec


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("a.mp4", {"codec": "libx999"}, "unknown codec 'libx999'\n.*libx264"),
        ("a.mp4", {"codec": "aac"}, "encodes audio, not video"),
        ("a.mp4", {"format": "nonsense"}, "unknown format 'nonsense'"),
        ("a.nonsense", {}, "no format has the ending"),
        ("a.webm", {"codec": "libx264"}, "does not take libx264"),
        ("nowhere/a.mp4", {}, "cannot write .*a.mp4: No such file"),
        ("-", {"format": "mp4"}, "cannot be written to a pipe"),
    ],
)
def test_what_cannot_be_written_is_said_in_two_lines(tmp_path, target, options, message):
    name = target if target == "-" else tmp_path / target
    with pytest.raises(VideoError, match=message) as caught:
        VideoWriter(name, width=64, height=48, info=INFO, **options)
    assert str(caught.value).count("\n") <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("crf", [-1, 64, float("nan")])
def test_a_quality_out_of_range_is_refused(tmp_path, crf):
    with pytest.raises(VideoError, match=r"expected 0 .* to 63"):
        VideoWriter(tmp_path / "a.mp4", width=64, height=48, info=INFO, crf=crf)


def test_a_read_only_folder_is_an_error(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere: the permission error was not seen")
    tmp_path.chmod(0o500)
    with pytest.raises(VideoError, match="check the permissions"):
        VideoWriter(tmp_path / "a.mp4", width=64, height=48, info=INFO)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here: a full disk was not tried")
def test_a_full_disk_is_said(picture):
    writer = VideoWriter("/dev/full", width=64, height=48, info=INFO, format="matroska")
    with pytest.raises(VideoError, match="free some space"):
        for number in range(300):
            writer.write(picture(number % 7), number * INFO.time_base)
        writer.close()
    writer.abort()


def test_an_error_deletes_the_file(tmp_path, picture):
    with pytest.raises(ZeroDivisionError), VideoWriter(tmp_path / "a.mp4", width=64, height=48, info=INFO) as writer:
        writer.write(picture(0), Fraction(0))
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_frame_of_another_size_is_refused(tmp_path, picture):
    with VideoWriter(tmp_path / "a.mp4", width=64, height=48, info=INFO) as writer:
        with pytest.raises(ValueError, match=r"expected \[3, 48, 64\]"):
            writer.write(picture(0, 48, 62), Fraction(0))
        writer.write(picture(0), Fraction(0))


COPY = """
import sys
from flashvsr.video import VideoReader, VideoWriter
with VideoReader(sys.argv[1]) as reader:
    size = {"width": reader.info.width, "height": reader.info.height}
    with VideoWriter("-", **size, info=reader.info, format=sys.argv[2], copy_tracks_from=reader) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame.time)
print(*writer.warnings, file=sys.stderr)
"""


@pytest.mark.parametrize("format", ["auto", "y4m"])
def test_stdin_to_stdout_in_one_pass_with_sound(tmp_path, write_av, format):
    source = write_av(tmp_path / "a.mkv", audio_start=Fraction(1, 10))
    result = subprocess.run(
        [sys.executable, "-c", COPY, "-", format], input=source.read_bytes(), capture_output=True, check=True
    )
    (tmp_path / "out").write_bytes(result.stdout)
    with av.open(str(tmp_path / "out")) as container:
        assert len(container.streams.audio) == (0 if format == "y4m" else 1)
        assert sum(1 for _ in container.decode(video=0)) == 25
    assert (b"not copied" in result.stderr) == (format == "y4m")
    if format != "y4m":
        with av.open(str(source)) as before, av.open(str(tmp_path / "out")) as after:
            expected, got = payload(before), payload(after)
        assert got == expected


def payload(container) -> list[bytes]:
    return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_a_closed_pipe_is_said_without_a_traceback_of_ffmpeg(tmp_path, write_clip):
    source = write_clip(tmp_path / "a.mkv", [Fraction(number, 25) for number in range(60)])
    with subprocess.Popen(
        [sys.executable, "-c", COPY, str(source), "y4m"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr is not None
        assert b"the program reading the pipe has stopped" in process.stderr.read()


def test_the_encoders_print_nothing(tmp_path, capfd, write_clip):
    write_clip(tmp_path / "a.mp4", TIMES[:2], INFO)
    write_clip(tmp_path / "b.mp4", TIMES[:2], HDR)
    write_clip(tmp_path / "c.webm", TIMES[:2], HDR)
    assert capfd.readouterr() == ("", "")
