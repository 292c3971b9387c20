"""Interlaced video, from file to file."""

from fractions import Fraction

import av
import pytest

from flashvsr import upscale_file
from flashvsr.upscale import EncodeOptions, ResumeError
from tests.upscale.standin import StandIn, read_frames, same_video
from tests.video.interlaced import moments, pulled_down, woven, write


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory):
    """Two seconds of 25 frames of two fields, with sound."""
    return write(tmp_path_factory.mktemp("interlaced") / "in.mkv", woven(moments(100)), flagged="top")


def lengths(path):
    with av.open(str(path)) as container:
        return [float(stream.duration * stream.time_base) for stream in container.streams]


def test_fields_become_frames_and_the_length_and_the_sound_stay(interlaced, tmp_path, capsys):
    result = upscale_file(interlaced, tmp_path / "out.mov", model=StandIn(), scale=1)
    frames, times = read_frames(tmp_path / "out.mov")
    assert (result.frames, len(frames)) == (100, 100)
    assert times == [Fraction(n, 50) for n in range(100)]
    assert lengths(tmp_path / "out.mov") == [2.0, 2.0]
    printed = capsys.readouterr().err.splitlines()
    assert "top field first" in printed[0]  # before the work
    assert len([line for line in printed if "interlaced" in line]) == 1


def test_an_interrupted_run_of_fields_goes_on_to_the_same_file(interlaced, tmp_path):
    upscale_file(interlaced, tmp_path / "whole.mov", model=StandIn(), scale=1, segment_seconds=0.4, quiet=True)
    options = {"scale": 1, "segment_seconds": 0.4, "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        model = StandIn(error=KeyboardInterrupt("stop"), steps=7)
        upscale_file(interlaced, tmp_path / "out.mov", model=model, **options)
    assert (tmp_path / "out.mov.partial").exists()
    off = EncodeOptions(deinterlace="off")
    with pytest.raises(ResumeError, match=r"another deinterlacing \(then auto, now off\)"):
        upscale_file(interlaced, tmp_path / "out.mov", model=StandIn(), resume=True, encoding=off, **options)
    upscale_file(interlaced, tmp_path / "out.mov", model=StandIn(), resume=True, **options)
    assert same_video(tmp_path / "out.mov", tmp_path / "whole.mov")


@pytest.mark.parametrize("segment_seconds", [0.5, None])
def test_film_in_video_comes_out_at_its_own_rate_and_length(tmp_path, segment_seconds):
    rate = Fraction(30000, 1001)
    source = write(tmp_path / "in.mov", pulled_down(moments(40)), flagged="top", rate=rate, timecode="01:00:00;02")
    result = upscale_file(
        source, tmp_path / "out.mov", model=StandIn(), scale=1, segment_seconds=segment_seconds, quiet=True
    )
    _, times = read_frames(tmp_path / "out.mov")
    assert (result.frames, len(times)) == (40, 40)
    assert max(abs(time - n / (rate * 4 / 5)) for n, time in enumerate(times)) < Fraction(1, 1000)
    assert lengths(tmp_path / "out.mov")[0] == pytest.approx(float(50 / rate), abs=1e-3)
    assert any("its timecode is not copied" in line for line in result.warnings)  # drop frame is for 29.97
