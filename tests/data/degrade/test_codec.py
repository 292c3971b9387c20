import numpy as np
import pytest
import torch

from flashvsr.data.degrade.codec import CodecDraw, CodecPass, through_codec
from flashvsr.data.degrade.settings import CODECS, Codec
from flashvsr.video.example import ExampleSource


@pytest.fixture(scope="module")
def clip():
    frames = [frame.pixels[:, :96, :128] for frame in ExampleSource().frames(0)]
    return torch.stack(frames[:24])


def coded(clip, codec, bits):
    return torch.stack(list(through_codec(clip, codec, bits)))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("frames", [1, 2, 24])
def test_no_frame_is_lost_and_none_moves(clip, codec, frames):
    marked = clip[:frames].clone() // 4
    for number, frame in enumerate(marked):
        frame[:, :, : 4 * number + 4] = 255  # a bar as wide as the frame's number
    result = coded(marked, codec, 200_000)
    assert result.shape == marked.shape
    widths = (result[:, 1, 48] > 160).sum(-1)
    assert widths.tolist() == [4 * number + 4 for number in range(frames)]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_fewer_bits_lose_more(clip, codec):
    gray = clip[:, 1:2].expand(-1, 3, -1, -1)  # whatever the rate, 4:2:0 loses colour
    errors = [
        float((coded(gray, codec, bits).float() - gray.float()).square().mean()) for bits in (30_000, 8_000, 2_000)
    ]
    assert errors[0] < errors[1] < errors[2]
    assert errors[2] > 2 * errors[0]


@pytest.mark.parametrize("size", [(5, 7), (33, 50), (16, 16)])
@pytest.mark.parametrize("codec", CODECS)
def test_any_size_comes_back_as_it_went(codec, size):
    clip = torch.full((3, 3, *size), 120, dtype=torch.uint8)
    result = coded(clip, codec, 50_000)
    assert result.shape == clip.shape
    assert (result.int() - 120).abs().max() <= 4


def test_an_unknown_codec_is_refused():
    with pytest.raises(ValueError, match=r"'theora'.*libx264"):
        CodecPass("theora", 32, 32, 1000)


def test_the_budget_grows_with_the_pixels_and_codecs_have_their_probabilities():
    small = [CodecDraw(Codec(), np.random.default_rng(seed), pixels=256 * 256) for seed in range(1000)]
    large = [CodecDraw(Codec(), np.random.default_rng(seed), pixels=512 * 512) for seed in range(1000)]
    assert all(abs(b.bits - 4 * a.bits) <= 4 for a, b in zip(small, large, strict=True))
    assert 1e4 <= min(draw.bits for draw in small) <= 1.2e4
    assert 9.8e4 <= max(draw.bits for draw in small) <= 1e5
    assert abs(sum(draw.codec == "libx264" for draw in small) / 1000 - 2 / 3) < 0.05
