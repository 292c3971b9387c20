"""Whether a soft input is noticed, and only a soft one."""

from fractions import Fraction

import pytest
import torch
from PIL import Image

from flashvsr import upscale_file
from flashvsr.streaming import resize_bicubic
from flashvsr.upscale import ClipOptions
from flashvsr.upscale.softness import SOFT, SoftnessMeter, detail_ratio
from flashvsr.video import VideoFrame, VideoInfo, VideoReader
from tests.upscale.standin import StandIn


@pytest.fixture(scope="module")
def sharp():
    with VideoReader("example:") as reader:
        return next(iter(reader)).pixels


@pytest.fixture
def soft(sharp):
    height, width = sharp.shape[1:]
    smaller = resize_bicubic(sharp[None], (3 * height // 4, 3 * width // 4))  # less aliased
    return resize_bicubic(smaller, (2 * height, 2 * width))[0]


def _told(pictures, **options):
    told = []
    meter = SoftnessMeter(VideoInfo(32, 32, Fraction(25), **options), lambda: told.append(1))
    for number, pixels in enumerate(pictures):
        meter(VideoFrame(pixels, Fraction(number, 25)))
    return len(told)


def test_what_was_enlarged_is_soft_and_the_picture_before_is_not(sharp, soft):
    assert detail_ratio(sharp) > 0.19
    assert detail_ratio(soft) < SOFT
    assert detail_ratio(soft.float() / 255) == pytest.approx(detail_ratio(soft), rel=1e-3)
    assert detail_ratio(torch.zeros(3, 64, 64, dtype=torch.uint8)) is None


def test_it_is_said_once_and_only_when_all_frames_agree(sharp, soft):
    assert _told([soft] * 80) == 1
    assert _told([torch.zeros_like(soft)] * 13 + [soft] * 80) == 1
    assert _told([soft] * 13 + [sharp] * 80) == 0
    assert _told([soft], frames=1) == 1


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({}, "--scale 2 shrinks it"),
        ({"scale": 3}, "--scale 1.5 shrinks it"),
        ({"clip": ClipOptions(height=1000)}, "half the size asked for"),
        ({"scale": 2}, None),
    ],
)
def test_a_run_says_which_scale_shrinks_a_soft_input_first(tmp_path, soft, options, advice):
    crop = soft[:, 100:260, 200:360]
    Image.fromarray(crop.permute(1, 2, 0).contiguous().numpy()).save(tmp_path / "in.png")
    result = upscale_file(tmp_path / "in.png", tmp_path / "out.png", model=StandIn(), quiet=True, **options)
    assert len(result.warnings) == (advice is not None)
    if advice is not None:
        assert "in.png is soft" in result.warnings[0]
        assert "80 x 80 pixels would hold as much" in result.warnings[0]
        assert advice in result.warnings[0]
