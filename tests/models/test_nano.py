import subprocess
import sys

import pytest
import torch

import flashvsr
from flashvsr.streaming import resize_bicubic


@pytest.fixture(scope="module")
def nano():
    return flashvsr.load("nano", device="cpu")


def test_nano_has_at_most_eight_million_parameters(nano):
    assert sum(parameter.numel() for parameter in nano.parameters()) <= 8_000_000


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 17, 33), (3, 45, 80), (23, 16, 16)])
def test_untrained_nano_is_the_plain_enlargement_and_never_noise(nano, frames, height, width):
    video = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)
    assert torch.equal(nano.upscale(video), resize_bicubic(video, (4 * height, 4 * width)))


def test_every_network_of_nano_has_weights_that_do_something(nano):
    # the output alone cannot tell: the decoder's last layer is zero
    lr, noise = torch.rand(1, 3, 25, 128, 128), torch.randn(1, 16, 6, 16, 16)
    with torch.no_grad():
        tokens, _ = nano.projection(lr, None)
        velocity, _ = nano.dit(noise, torch.tensor([1000.0]), lr_tokens=tokens)
        other, _ = nano.dit(noise, torch.tensor([1000.0]), lr_tokens=tokens.flip(1))
    assert tokens.std() > 1e-2
    assert velocity.isfinite().all()
    assert (velocity - other).abs().max() > 1e-2


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
