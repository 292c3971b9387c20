import subprocess
import sys

import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

import flashvsr
from flashvsr.models import DecoderSystem
from flashvsr.streaming import resize_bicubic
from flashvsr.video.example import ExampleSource


@pytest.fixture(scope="module")
def nano():
    return flashvsr.load("nano", device="cpu")


def test_nano_has_at_most_three_million_parameters(nano):
    assert sum(parameter.numel() for parameter in nano.parameters()) <= 3_000_000


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 17, 33), (3, 45, 80), (23, 16, 16)])
def test_nano_gives_a_picture_of_the_input_at_four_times_the_size(nano, frames, height, width):
    video = resize_bicubic(torch.randint(0, 256, (frames, 3, 8, 8), dtype=torch.uint8), (height, width))
    plain, made = resize_bicubic(video, (4 * height, 4 * width)), nano.upscale(video)
    assert made.shape == plain.shape
    assert made.dtype == torch.uint8
    difference = (made.float() - plain.float()).abs()
    assert 0 < difference.mean() < 8  # of 255 levels


def test_nano_restores_what_blur_took_better_than_bicubic(nano):
    truth = torch.stack([frame.pixels for frame in ExampleSource().frames(0)])[:21, :, :176]
    small = resize_bicubic(gaussian_blur(truth, 21, 3.5), (44, 80))
    plain, made = (
        10 * torch.log10(255**2 / (video.float() - truth.float()).square().mean())
        for video in (resize_bicubic(small, (176, 320)), nano.upscale(small))
    )
    assert made > plain + 0.1  # dB


def test_nano_is_a_decoder_alone_that_gives_the_first_frame_with_the_first(nano):
    assert isinstance(nano, DecoderSystem)
    assert {name.partition(".")[0] for name, _ in nano.named_parameters()} == {"decoder"}
    video = torch.randint(0, 256, (5, 3, 32, 48), dtype=torch.uint8)
    stream = nano.stream(height=32, width=48)
    assert [len(stream.push(frame[None])) for frame in video] == [1, 0, 0, 0, 4]


def test_options_for_a_transformer_are_refused_by_name():
    with pytest.raises(ValueError, match=r"without a transformer: leave out sparse_ratio=1\.0"):
        flashvsr.load("nano", device="cpu", sparse_ratio=1.0)


# slow: a chunk of 720p takes about half a minute of a slow core
@pytest.mark.slow
def test_nano_upscales_to_720p_in_less_than_three_gigabytes():
    code = (
        "import re, torch, flashvsr\n"
        "from pathlib import Path\n"
        "stream = flashvsr.load('nano', device='cpu').stream(height=180, width=320)\n"
        "video = torch.randint(0, 256, (33, 3, 180, 320), dtype=torch.uint8)\n"
        "assert len(stream.push(video)) == 29\n"
        # counted from the start of the program; ru_maxrss would begin with what the parent had
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 3e9
