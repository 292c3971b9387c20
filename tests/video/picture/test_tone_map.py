import pytest
import torch

from flashvsr.video import Colors
from flashvsr.video.picture.tone_map import tone_map

PQ, HLG = Colors(9, 16, 9, 1), Colors(9, 18, 9, 1)


def gray(*levels):
    return torch.tensor(levels).expand(3, 1, -1).clone()


def test_black_stays_black_and_the_peak_is_white():
    for colors, peak in ((PQ, 0.7518), (HLG, 1.0)):  # 1000 cd/m2
        mapped = tone_map(gray(0.0, peak), colors)
        assert mapped[..., 0].max() < 0.02
        assert mapped[..., 1].min() > 0.99


def test_diffuse_white_is_nearly_white_and_the_same_from_pq_and_hlg():
    pq, hlg = tone_map(gray(0.58), PQ), tone_map(gray(0.75), HLG)  # both 203 cd/m2, BT.2408
    assert 0.9 < pq.mean() < 1
    torch.testing.assert_close(pq, hlg, atol=0.01, rtol=0)


def test_brighter_is_never_darker_and_gray_stays_gray():
    for colors in (PQ, HLG):
        mapped = tone_map(gray(*torch.linspace(0, 1, 256).tolist()), colors)
        assert (mapped.diff(dim=-1) >= -1e-6).all()
        assert (mapped.amax(0) - mapped.amin(0)).max() < 2e-3


def test_dark_and_middle_tones_are_not_compressed():
    light = tone_map(gray(0.38), PQ).pow(2.4).mean() * 203  # 26 cd/m2 in PQ: SMPTE ST 2084
    assert 20 < light < 33


def test_sdr_is_refused():
    with pytest.raises(ValueError, match="not HDR"):
        tone_map(gray(0.5), Colors(1, 1, 1, 1))
