"""Any name that a file system takes will do."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from flashvsr.video import (
    VideoError,
    VideoInfo,
    VideoReader,
    VideoWriter,
    image_name,
    is_image_target,
    is_pattern,
    join_segments,
    numbered_images,
)

INFO = VideoInfo(64, 48, Fraction(25), Fraction(1, 25))
NAMES = ["a:b.mp4", "http:x.mkv", "50%done.mp4", "100%d.mkv", "a%03d.mp4", "-b.mkv", "pipe:1.mkv", "na\udcefve.mp4"]


def write(target, picture, count=3, **options):
    with VideoWriter(target, width=64, height=48, info=INFO, **options) as writer:
        for number in range(count):
            writer.write(picture(number), Fraction(number, 25))


@pytest.mark.parametrize("name", NAMES)
def test_a_video_is_written_joined_and_read_under_this_name(tmp_path, monkeypatch, picture, name):
    monkeypatch.chdir(tmp_path)
    write(name, picture)
    write("1.nut", picture)
    join_segments(["1.nut"], f"joined {name}", source=name)
    assert {path.name for path in Path().iterdir()} == {name, "1.nut", f"joined {name}"}
    for path in (name, f"joined {name}"):
        with VideoReader(path) as reader:
            assert len(list(reader)) == 3


@pytest.mark.parametrize(
    "name", ["100%_%04d.png", "100%%_%04d.png", "a:%d.png", "50%done_%02d.png", "%d.png", "%%%d.png"]
)
def test_images_are_written_and_read_by_this_pattern(tmp_path, monkeypatch, picture, name):
    monkeypatch.chdir(tmp_path)
    write(name, picture)
    assert [number for number, _ in numbered_images(name)] == [1, 2, 3]
    with VideoReader(name, fps=Fraction(25)) as reader:
        assert len(list(reader)) == 3


def test_numbers_of_patterns_are_put_where_they_stand():
    assert image_name("100%_%04d.png", 7) == "100%_0007.png"
    assert image_name("100%%_%04d.png", 7) == "100%_0007.png"
    assert image_name("%03dx.png", 7) == "007x.png"
    assert not is_pattern("50%done.mp4")
    assert not is_pattern("50%done.png")
    assert not is_image_target("50%done.mp4")
    assert not is_pattern("%%d.png")


def test_a_pattern_with_two_numbers_is_refused(tmp_path, picture):
    with pytest.raises(VideoError, match=r"a_%d_%03d.png holds 2 numbers, expected one"):
        write(tmp_path / "a_%d_%03d.png", picture)
    with pytest.raises(VideoError, match="holds 2 numbers"):
        VideoReader(tmp_path / "a_%d_%03d.png")


def test_images_of_a_folder_may_have_any_name(tmp_path, picture):
    write(tmp_path / "made", picture, 4)
    names = ["1%d.png", "2:x.png", "3%05d.png", "4\udcef.png"]
    for path, name in zip(sorted((tmp_path / "made").iterdir()), names, strict=True):
        path.rename(path.parent / name)
    with VideoReader(tmp_path / "made", fps=Fraction(25)) as reader:
        assert len(list(reader)) == 4
    with VideoReader(tmp_path / "made" / "1%d.png", fps=Fraction(25)) as reader:
        assert len(list(reader)) == 1
