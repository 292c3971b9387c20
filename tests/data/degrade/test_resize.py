import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from flashvsr.data.degrade.resize import ResizeWalk, bicubic_quarter, low_size, resize
from flashvsr.data.degrade.settings import Resize


@pytest.fixture
def frames():
    return torch.rand(2, 3, 48, 66, generator=torch.Generator().manual_seed(0)) * 255


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(20, 30), (100, 120), (48, 30), (7, 70)])
def test_bilinear_and_bicubic_are_those_of_torch(frames, method, size):
    expected = F.interpolate(frames, size, mode=method, align_corners=False)
    torch.testing.assert_close(resize(frames, size, method), expected, atol=5e-3, rtol=0)


def test_area_averages_what_a_pixel_covers(frames):
    torch.testing.assert_close(resize(frames, (16, 22), "area"), F.avg_pool2d(frames, 3), atol=1e-3, rtol=0)
    by_parts = F.avg_pool2d(frames.repeat_interleave(5, 2).repeat_interleave(5, 3), 6)  # 48 -> 40, 66 -> 55
    torch.testing.assert_close(resize(frames, (40, 55), "area"), by_parts, atol=1e-3, rtol=0)


def test_area_is_bilinear_when_a_side_grows(frames):
    assert torch.equal(resize(frames, (60, 33), "area"), resize(frames, (60, 33), "bilinear"))


def test_an_unknown_method_is_refused(frames):
    with pytest.raises(ValueError, match=r"'nearest'.*bilinear"):
        resize(frames, (8, 8), "nearest")


def test_modes_come_with_their_published_probabilities():
    counts = {"up": 0, "down": 0, "keep": 0}
    for seed in range(3000):
        height, _ = ResizeWalk(Resize(), np.random.default_rng(seed)).next_size(10000, 10000)
        assert 1500 <= height <= 15000
        counts["keep" if height == 10000 else "up" if height > 10000 else "down"] += 1
    for mode, probability in {"up": 0.2, "down": 0.7, "keep": 0.1}.items():
        assert abs(counts[mode] / 3000 - probability) < 0.03


def test_the_size_drifts_by_small_steps_and_stays_even():
    walk = ResizeWalk(Resize(), np.random.default_rng(5))
    sizes = [walk.next_size(1000, 800) for _ in range(50)]
    assert all(height % 2 == 0 and width % 2 == 0 for height, width in sizes)
    steps = np.abs(np.diff([height for height, _ in sizes]))
    assert 0 < steps.max() <= 17


@pytest.mark.parametrize("size, low", [((384, 384), (96, 96)), ((45, 46), (11, 12)), ((1, 5), (1, 1))])
def test_the_final_size_is_a_quarter_rounded(size, low):
    assert low_size(*size) == low


def test_the_clean_reduction_is_pils_bicubic(frames):
    frame = frames[0].round().to(torch.uint8)
    image = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((17, 12), Image.Resampling.BICUBIC)
    assert torch.equal(bicubic_quarter(frame), torch.from_numpy(np.array(image)).permute(2, 0, 1))
