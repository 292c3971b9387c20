from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flashvsr.curate.stages.probe import combing, letterbox
from flashvsr.curate.stages.scores import blockiness, motion_dis, motion_of_flow, sharpness, weight_free
from tests.curate.footage import pan, texture


def luma_of(picture):
    return picture[..., 1].astype(np.float32)


def enlarged(picture, factor):
    height, width = picture.shape[:2]
    small = Image.fromarray(picture).resize((width // factor, height // factor), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def test_an_enlarged_picture_is_not_sharp_and_contrast_does_not_matter():
    picture = texture(1, 480, 640)
    fine = np.clip(picture.astype(int) + np.random.default_rng(0).integers(-20, 20, picture.shape), 0, 255)
    sharp = sharpness(luma_of(fine))
    assert sharp > 10
    assert sharpness(luma_of(enlarged(fine.astype(np.uint8), 2))) < 0.35 * sharp
    assert sharpness(luma_of(enlarged(fine.astype(np.uint8), 4))) < 0.15 * sharp
    assert sharpness(luma_of(fine) / 2) == pytest.approx(sharp, rel=1e-3)


@pytest.mark.parametrize("corner", [(0, 0), (3, 5)])
def test_blocks_are_found_wherever_their_grid_begins(corner):
    smooth = enlarged(texture(1, 480, 640), 5)  # 5: its own ripple has no period of 8
    blocks = luma_of(smooth).reshape(60, 8, 80, 8).mean(axis=(1, 3)).repeat(8, 0).repeat(8, 1)
    mixed = 0.7 * luma_of(smooth) + 0.3 * blocks
    assert blockiness(luma_of(smooth)) < 1.2
    assert blockiness(mixed[corner[0] :, corner[1] :]) > 1.8


def test_exposure_and_clipping_are_per_cent():
    half = np.zeros((1, 64, 64, 3), np.uint8)
    half[:, :32] = 255
    scores = weight_free(half)
    assert scores["exposure"] == pytest.approx(50)
    assert scores["clipped"] == pytest.approx(100)
    gray = weight_free(np.full((2, 64, 64, 3), 51, np.uint8))
    assert (gray["exposure"], gray["clipped"]) == (pytest.approx(20), 0)


def test_motion_is_in_per_cent_of_the_short_side_a_second():
    flow = np.zeros((100, 300, 2), np.float32)
    flow[..., 0] = 3.0
    flow[..., 1] = 4.0
    assert motion_of_flow(flow, 0.5) == pytest.approx(10)


def test_a_known_shift_is_measured_and_standing_still_is_none():
    frames = np.stack(pan(1, 12, speed=2, size=(144, 192)))
    # 4 pixels in two frames of 25 a second: 100 * 4 / 144 / 0.08
    assert motion_dis(frames[:4], frames[2:6], 2 / 25) == pytest.approx(100 * 4 / 144 / 0.08, rel=0.1)
    assert motion_dis(frames[:4], frames[:4], 2 / 25) == 0


def test_motion_does_not_depend_on_the_size_of_the_picture():
    small = np.stack(pan(1, 12, speed=2, size=(144, 192)))
    large = np.stack([np.asarray(Image.fromarray(one).resize((768, 576))) for one in small])
    assert motion_dis(large[:2], large[2:4], 0.08) == pytest.approx(motion_dis(small[:2], small[2:4], 0.08), rel=0.1)


def test_woven_fields_comb_and_progressive_pictures_do_not():
    first, second, third = pan(1, 3, speed=5)
    woven, next_woven = first.copy(), second.copy()
    woven[1::2], next_woven[1::2] = second[1::2], third[1::2]
    assert combing(woven, next_woven) > 1.1
    assert combing(first, second) < 0.9
    assert combing(woven, woven) == 0, "nothing moves: nothing can comb"


def test_bars_are_found_on_any_side_and_thin_ones_stay():
    picture = np.maximum(pan(1, 1)[0], 60)
    wide = np.pad(picture, ((20, 30), (0, 0), (0, 0)))
    assert letterbox([wide]) == (22, 0, 140, 192)
    pillars = np.pad(picture, ((0, 0), (16, 16), (0, 0)))
    assert letterbox([pillars]) == (0, 18, 144, 188)
    thin = np.pad(picture, ((2, 1), (0, 0), (0, 0)))
    assert letterbox([thin]) == (0, 0, 147, 192)
    assert letterbox([np.zeros_like(picture)]) is None


def test_a_dark_picture_beside_a_bright_one_is_no_bar():
    bright = np.maximum(pan(1, 1)[0], 60)
    dark = bright.copy()
    dark[:70] = 0
    assert letterbox([dark, bright]) == (0, 0, 144, 192)
