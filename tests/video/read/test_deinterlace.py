"""Interlaced video is found by its frames, whatever its flags say, and fields become whole frames at their times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from flashvsr.video import Trim, VideoReader
from flashvsr.video.read.interlace import Statistics, look
from tests.video.interlaced import RATE, SIZE, moments, pulled_down, woven, write


def scan(frames: list[np.ndarray]) -> str:
    video = iter(av.VideoFrame.from_ndarray(picture, format="gray") for picture in frames)
    return look(video, most=120, most_bytes=1 << 28)[1].scan()


def read(path: Path, deinterlace: str = "auto", skip: int = 0) -> tuple[list, VideoReader]:
    with VideoReader(path, deinterlace=deinterlace, skip=skip) as reader:
        return list(reader), reader


@pytest.mark.parametrize("first", ["top", "bottom"])
def test_fields_of_two_moments_are_found_and_their_order(first):
    assert scan(woven(moments(40), first)) == first


@pytest.mark.parametrize("first", ["top", "bottom"])
def test_film_in_video_is_found(first):
    assert scan(pulled_down(moments(24), first)) == "film"


def test_whole_pictures_are_progressive_and_few_are_looked_at():
    video = iter(av.VideoFrame.from_ndarray(picture, format="gray") for picture in moments(60))
    taken, statistics = look(video, most=120, most_bytes=1 << 28)
    assert statistics.scan() == "progressive"
    assert len(taken) == 9


@pytest.mark.parametrize("size", ["64x64", "320x240"])
def test_a_synthetic_test_picture_is_progressive(size):
    with av.open(f"testsrc2=size={size}:rate=25", format="lavfi") as container:
        assert look(container.decode(video=0), most=120, most_bytes=1 << 28)[1].scan() == "progressive"


def test_a_still_picture_and_noise_say_nothing():
    assert scan(woven(moments(40, still=True))) == "unknown"
    noise = np.random.default_rng(0).integers(0, 256, (20, *SIZE)).astype(np.uint8)
    assert scan(list(noise)) == "unknown"


@pytest.mark.parametrize("layout", ["yuv420p", "yuv420p10le", "nv12", "rgb24", "gbrp", "yuyv422"])
def test_luma_is_read_from_every_layout(layout):
    picture = moments(1)[0]
    frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(
        format=layout, dst_color_range=2, src_color_range=2
    )
    statistics = Statistics()
    statistics.add(frame)
    assert statistics._before is not None
    assert np.abs(statistics._before - picture).mean() < 12  # limited or full range


@pytest.mark.parametrize("flagged", [None, "top", "bottom"])
@pytest.mark.parametrize("first", ["top", "bottom"])
def test_each_field_becomes_a_frame_at_its_time_whatever_the_flags_say(tmp_path, first, flagged):
    pictures = moments(48)
    frames, reader = read(write(tmp_path / "a.mkv", woven(pictures, first), flagged=flagged))
    assert [frame.time for frame in frames] == [Fraction(n, 50) for n in range(48)]
    assert reader.last_duration == Fraction(1, 50)
    assert reader.info.frame_rate == 50
    assert f"{first} field first" in reader.warnings[0]
    errors = [
        (frame.pixels[0].float() - torch.from_numpy(picture)).abs().mean()
        for frame, picture in zip(frames, pictures, strict=True)
    ]
    # what is between the lines is made up; fields in the wrong order would be 2 pixels off, an error above 10
    assert max(errors[2:-2]) < 4
    assert np.mean([float(error) for error in errors]) < 3


def test_frame_rate_keeps_the_number_of_frames_and_their_times(tmp_path):
    path = write(tmp_path / "a.mkv", woven(moments(48)), flagged="top")
    plain, _ = read(path, "off")
    frames, reader = read(path, "frame")
    assert [frame.time for frame in frames] == [frame.time for frame in plain]
    assert reader.info.frame_rate == RATE
    assert not torch.equal(frames[10].pixels, plain[10].pixels)


def test_film_comes_back_whole_with_four_frames_of_five(tmp_path):
    pictures = moments(32)
    rate = Fraction(30000, 1001)
    frames, reader = read(write(tmp_path / "a.mov", pulled_down(pictures), flagged="top", rate=rate))
    assert len(frames) == len(pictures)
    assert reader.info.frame_rate == Fraction(24000, 1001)
    assert "3:2 pulldown" in reader.warnings[0]
    assert reader.last_duration is not None
    assert frames[-1].time + reader.last_duration == 40 / rate
    errors = [
        float((frame.pixels[0].float() - torch.from_numpy(picture)).abs().mean())
        for frame, picture in zip(frames, pictures, strict=True)
    ]
    assert np.median(errors) < 3


def test_progressive_video_stays_as_it_is_even_when_flagged_as_interlaced(tmp_path):
    for flagged, lines in ((None, 0), ("top", 1)):
        path = write(tmp_path / f"{flagged}.mkv", moments(30), flagged=flagged)
        frames, reader = read(path)
        plain, _ = read(path, "off")
        assert [frame.time for frame in frames] == [frame.time for frame in plain]
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(frames, plain, strict=True))
        assert len(reader.warnings) == lines


def test_flags_count_where_nothing_moves(tmp_path):
    still = woven(moments(20, still=True))
    assert len(read(write(tmp_path / "a.mkv", still, flagged="bottom"))[0]) == 20
    assert len(read(write(tmp_path / "b.mkv", still))[0]) == 10


def test_frames_that_are_skipped_do_not_change_the_others(tmp_path):
    path = write(tmp_path / "a.mkv", woven(moments(40)))
    frames, _ = read(path)
    rest, _ = read(path, skip=17)
    assert [frame.time for frame in rest] == [frame.time for frame in frames[17:]]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(rest, frames[17:], strict=True))


def test_a_part_may_begin_with_the_second_field_of_a_frame(tmp_path):
    path = write(tmp_path / "a.mkv", woven(moments(48)))
    frames, _ = read(path)
    with VideoReader(path, deinterlace="auto", trim=Trim(Fraction(5, 50), Fraction(30, 50))) as reader:
        part = list(reader)
    assert [frame.time for frame in part] == [Fraction(n, 50) for n in range(25)]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(part, frames[5:30], strict=True))
    assert reader.last_duration == Fraction(1, 50)


def test_fields_that_come_later_are_said(tmp_path):
    frames = [*moments(60), *woven(moments(600))]
    for name, shown, lines in (("late.mkv", frames, 1), ("never.mkv", moments(300), 0)):
        warnings = read(write(tmp_path / name, shown))[1].warnings
        assert len(warnings) == lines
        assert all("looks interlaced at 4.04 s and later" in line for line in warnings)


def test_one_frame_gives_two_fields(tmp_path):
    frames, _ = read(write(tmp_path / "a.mkv", woven(moments(2))), "field")
    assert [frame.time for frame in frames] == [0, Fraction(1, 50)]


def test_an_unknown_way_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"deinterlace='bob'.*expected one of auto, off"):
        VideoReader(write(tmp_path / "a.mkv", moments(2)), deinterlace="bob")


def clips() -> Iterator[Path]:
    folder = os.environ.get("FLASHVSR_DATA")
    return iter(sorted(Path(folder).glob("*/video/*"))) if folder else iter(())


@pytest.mark.slow  # decodes the heads of 87 real clips, about 20 s
def test_no_real_progressive_clip_is_taken_for_interlaced():
    found = {}
    for path in clips():
        with av.open(str(path)) as container:
            found[path.name] = look(islice(container.decode(video=0), 120), most=120, most_bytes=1 << 28)[1].scan()
    if not found:
        pytest.skip("FLASHVSR_DATA is not set: no real clips were looked at")
    assert {name for name, scan in found.items() if scan not in ("progressive", "unknown")} == set()
