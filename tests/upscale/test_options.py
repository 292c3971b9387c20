from fractions import Fraction

import pytest

from flashvsr import upscale_file
from flashvsr.cli import main
from flashvsr.upscale import ClipOptions, ResumeError
from flashvsr.video import VideoInfo
from tests.upscale.standin import StandIn, read_frames, write_clip


@pytest.mark.parametrize(
    ("size", "source", "expected"),
    [
        ({"height": 1080}, (640, 360), (1080, 1920)),
        ({"height": 1080}, (854, 480), (1080, 1922)),  # 1921.5, to the nearest even number
        ({"width": 1920}, (854, 480), (1080, 1920)),
        ({"width": 99}, (48, 32), (66, 99)),
        ({"height": 1080, "width": 1920}, (1440, 1080), (1080, 1440)),
        ({"height": 1080, "width": 1920}, (360, 640), (1080, 608)),
        ({"height": 1080, "width": 1920}, (640, 270), (810, 1920)),
        ({}, (640, 360), 4),
    ],
)
def test_a_size_is_reached_exactly_and_the_other_side_follows_to_an_even_number(size, source, expected):
    assert ClipOptions(**size).target(VideoInfo(*source, Fraction(25)), 4) == expected


def test_a_size_below_that_of_the_input_is_refused():
    with pytest.raises(ValueError, match="the input has 640 x 360 pixels, more than 240: there is nothing to enlarge"):
        ClipOptions(height=240).target(VideoInfo(640, 360, Fraction(25)), 4)


@pytest.mark.parametrize("size", [["--height", "72"], ["--width", "108"], ["--height", "72", "--width", "1000"]])
def test_the_command_writes_the_size_asked_for(tmp_path, monkeypatch, size):
    monkeypatch.setattr("flashvsr.models.loading.load", lambda *_, **__: StandIn())
    source = write_clip(tmp_path / "in.mp4", 4, audio=False)  # 48 x 32
    assert main(["upscale", str(source), str(tmp_path / "out.mp4"), "--quiet", *size]) == 0
    assert read_frames(tmp_path / "out.mp4")[0].shape == (4, 3, 72, 108)


@pytest.mark.parametrize(("start", "end", "frames"), [("0:00.5", "1", 12), ("1", "0:0:2.0", 24), ("2", "99", 12)])
def test_the_command_takes_times_as_people_write_them(tmp_path, clip, monkeypatch, start, end, frames):
    monkeypatch.setattr("flashvsr.models.loading.load", lambda *_, **__: StandIn())
    command = ["upscale", str(clip), str(tmp_path / "out.mp4"), "--start", start, "--end", end, "--quiet"]
    assert main(command) == 0
    assert len(read_frames(tmp_path / "out.mp4")[0]) == frames


@pytest.mark.parametrize("time", ["soon", "1:2:3:4", "-1", "1:-5", "1/0"])
def test_a_time_that_is_none_is_refused(time, capsys):
    with pytest.raises(SystemExit) as end:
        main(["upscale", "a.mp4", "b.mp4", f"--start={time}"])
    assert end.value.code == 2
    assert f"{time} is not a time" in capsys.readouterr().err


def test_a_part_goes_on_to_the_same_frames_and_not_to_another_part(tmp_path, clip):
    part = ClipOptions(start=Fraction(1, 2), end=Fraction(9, 4))
    options = {"clip": part, "segment_seconds": 0.5, "quiet": True}
    upscale_file(clip, tmp_path / "whole.mp4", model=StandIn(), **options)
    with pytest.raises(KeyboardInterrupt):
        upscale_file(clip, tmp_path / "out.mp4", model=StandIn(error=KeyboardInterrupt(), steps=3), **options)
    with pytest.raises(ResumeError, match=r"another end \(then 9/4, now 2\)"):
        other = options | {"clip": ClipOptions(start=Fraction(1, 2), end=Fraction(2))}
        upscale_file(clip, tmp_path / "out.mp4", model=StandIn(), resume=True, **other)
    upscale_file(clip, tmp_path / "out.mp4", model=StandIn(), resume=True, **options)
    frames, times = read_frames(tmp_path / "out.mp4")
    assert times == read_frames(tmp_path / "whole.mp4")[1]
    assert (frames == read_frames(tmp_path / "whole.mp4")[0]).all()
    assert len(frames) == len([time for time in read_frames(clip)[1] if Fraction(1, 2) <= time < Fraction(9, 4)])
