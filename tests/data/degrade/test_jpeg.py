import io

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.data.degrade.jpeg import JpegWalk, encode_jpeg, quantization_tables, simulate_jpeg
from flashvsr.data.degrade.settings import Jpeg
from flashvsr.video.example import ExampleSource


@pytest.fixture(scope="module")
def frame():
    return next(iter(ExampleSource().frames(8))).pixels[:, :150, :203]


def error(one, other):
    return float((one.float() - other.float()).square().mean())


def test_lower_quality_is_worse(frame):
    errors = [error(encode_jpeg(frame, quality), frame) for quality in (95, 80, 60, 40, 20, 5)]
    assert errors == sorted(errors)
    assert errors[0] < errors[-1] / 4


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
def test_the_tables_are_those_of_the_encoder(quality):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=quality)
    luma, chroma = (torch.tensor(table).view(8, 8) for _, table in sorted(Image.open(file).quantization.items()))
    ours = quantization_tables(torch.tensor([quality]))
    assert torch.equal(ours[0][0].long(), luma)
    assert torch.equal(ours[1][0].long(), chroma)


@pytest.mark.parametrize("quality", [10, 30, 60, 95])
def test_the_simulation_is_close_to_the_encoder(frame, quality):
    real = encode_jpeg(frame, quality).float()
    ours = simulate_jpeg(frame[None].float(), torch.tensor([quality]))[0]
    assert float((real - ours).abs().mean()) < 0.8
    assert error(real, ours) < 0.1 * error(real, frame)


def test_every_frame_of_a_batch_has_its_own_quality(frame):
    frames = frame[None].float().repeat(2, 1, 1, 1)
    both = simulate_jpeg(frames, torch.tensor([20, 90]))
    for number, quality in enumerate((20, 90)):
        assert torch.equal(both[number], simulate_jpeg(frames[:1], torch.tensor([quality]))[0])


def test_quality_drifts_inside_its_range():
    walk = JpegWalk(Jpeg(), np.random.default_rng(3))
    values = [next(walk) for _ in range(300)]
    assert min(values) >= 30
    assert max(values) <= 95
    assert 0 < np.abs(np.diff(values)).max() <= 4
