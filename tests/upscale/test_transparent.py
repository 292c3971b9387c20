"""Transparent video and pictures, from file to file."""

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr import upscale_file
from flashvsr.video import VideoReader
from tests.upscale.standin import StandIn
from tests.video.picture.test_alpha import alphas, write
from tests.video.test_rare_formats import animation


def test_opacity_is_enlarged_beside_the_colours(tmp_path):
    source = write(tmp_path / "in.mov", "qtrle", "argb", frames=30)
    upscale_file(source, tmp_path / "out.mov", model=StandIn(), quiet=True)
    found = alphas(tmp_path / "out.mov")
    assert len(found) == 30
    assert found[0].shape == (192, 256)
    expected = torch.nn.functional.interpolate(alphas(source)[0][None, None], scale_factor=4, mode="bicubic")[0, 0]
    assert all((alpha - expected.clamp(0, 1)).abs().max() < 0.01 for alpha in found)


def test_an_animated_webp_becomes_a_video_with_its_times_and_opacity(tmp_path):
    source = animation(tmp_path / "in.webp")
    upscale_file(source, tmp_path / "out.mov", model=StandIn(), quiet=True)
    with VideoReader(source) as reader, VideoReader(tmp_path / "out.mov") as result:
        assert [frame.time for frame in result] == [frame.time for frame in reader]
        assert result.last_duration == reader.last_duration
    assert [float(alpha[2, 32 * number + 16]) for number, alpha in enumerate(alphas(tmp_path / "out.mov"))] == [0] * 5


@pytest.mark.parametrize("ending", ["mov", "webm"])
def test_an_interrupted_run_keeps_the_opacity_of_the_frames_on_their_way(tmp_path, ending):
    frames = tmp_path / "in"
    frames.mkdir()
    for number in range(48):
        rgba = np.full((32, 48, 4), (200, 90, 60, number * 5), np.uint8)
        Image.fromarray(rgba).save(frames / f"{number:03d}.png")
    output, options = tmp_path / f"out.{ending}", {"segment_seconds": 0.4, "scale": 1, "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        upscale_file(frames, output, model=StandIn(error=KeyboardInterrupt("stop"), steps=4), **options)
    upscale_file(frames, output, model=StandIn(), resume=True, **options)
    found = [float(alpha.mean()) * 255 for alpha in alphas(output)]
    assert len(found) == 48
    assert max(abs(value - number * 5) for number, value in enumerate(found)) < 3


def test_colours_that_nobody_sees_do_not_darken_the_edges(tmp_path):
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[8:24, 8:24] = (240, 240, 240, 255)
    Image.fromarray(rgba).save(tmp_path / "in.png")
    upscale_file(tmp_path / "in.png", tmp_path / "out.png", model=StandIn(), quiet=True)
    result = np.asarray(Image.open(tmp_path / "out.png"))
    assert result.shape == (128, 128, 4)
    seen = result[..., :3][result[..., 3] > 0]
    assert seen.min() > seen.max() - 5  # without the filling, half-seen pixels are half black


def test_opacity_that_is_lost_is_said_before_the_work(tmp_path, capsys):
    source = write(tmp_path / "in.mov", "qtrle", "argb")
    upscale_file(source, tmp_path / "out.mp4", model=StandIn(), scale=1)
    assert "mp4 with libx264 holds no transparency" in capsys.readouterr().err.splitlines()[0]
