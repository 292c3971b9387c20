"""Resizing equals Pillow's, mirroring covers any padding."""

from __future__ import annotations

import pytest
import torch

from flashvsr.streaming import resize_bicubic
from flashvsr.streaming.frames import Canvas, _mirrored
from tests.streaming.test_stream import assert_levels_equal, pillow


def clip(frames, height, width):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("size", [(48, 61), (97, 132), (33, 17)])
@pytest.mark.parametrize("factor", [4, 3, 1.7])
def test_resize_equals_pillow_within_a_level_on_few_samples(size, factor):
    video = clip(2, *size)
    target = (round(size[0] * factor), round(size[1] * factor))
    assert_levels_equal(resize_bicubic(video, target), pillow(video, target))


def test_resize_is_not_the_sharper_cubic_of_plain_torch():
    video = clip(1, 40, 40)
    plain = torch.nn.functional.interpolate(video.float(), size=(160, 160), mode="bicubic").round().clamp(0, 255)
    assert ((plain - pillow(video, (160, 160)).float()).abs() > 1).float().mean() > 0.3


def test_a_single_pixel_row_is_repeated_where_nothing_can_be_mirrored():
    assert _mirrored(1, 4).tolist() == [0, 0, 0]
    assert _mirrored(3, 9).tolist() == [1, 0, 1, 2, 1, 0]


def test_nan_stays_near_where_it_is():
    # as frames on a GPU reach it, where looking for NaN would make the host wait
    frames = torch.full((2, 3, 32, 32), 0.5)
    frames[0, 1, 4, 4] = torch.nan
    target = Canvas(32, 32, 4, 16, torch.device("cpu"), torch.float32).to_model(frames)
    assert target.isfinite().all()
    changed = (target != Canvas(32, 32, 4, 16, torch.device("cpu"), torch.float32).to_model(frames.nan_to_num(0.5)))[0]
    assert not changed[:, 1].any()
    assert not changed[:, :, 32:].any()
    assert not changed[:, :, :, 32:].any()
