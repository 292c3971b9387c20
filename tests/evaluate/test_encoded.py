import pytest
import torch

from flashvsr.evaluate import bicubic_lr, encoded_lr
from flashvsr.video.example import ExampleSource


@pytest.fixture(scope="module")
def clip():
    frames = [frame.pixels for frame, _ in zip(ExampleSource().frames(0), range(33), strict=False)]
    return torch.stack(frames[::8])[:, :, :128, :160].contiguous()


def test_every_frame_comes_back_at_a_quarter_of_the_size_and_in_its_place(clip):
    small, plain = encoded_lr(clip, 3), bicubic_lr(clip)
    assert small.shape == (5, 3, 32, 40) and small.dtype == torch.uint8
    error = (small[:, None].float() - plain[None].float()).abs().mean((2, 3, 4))  # [theirs, ours]
    assert error.diagonal().max() < 10  # of 255 levels
    assert (small.float() - plain.float()).mean((0, 2, 3)).abs().max() < 0.7  # no tint, no change of brightness
    assert torch.equal(error.argmin(1), torch.arange(5))


def test_it_is_a_function_of_the_seed(clip):
    assert torch.equal(encoded_lr(clip, 3), encoded_lr(clip, 3))
    assert not torch.equal(encoded_lr(clip, 3), encoded_lr(clip, 4))


def test_a_photograph_is_a_clip_of_one_frame(clip):
    assert encoded_lr(clip[:1], 0).shape == (1, 3, 32, 40)


def test_a_size_that_the_encoder_cannot_take_is_refused(clip):
    with pytest.raises(ValueError, match="128x156: expected multiples of 8"):
        encoded_lr(clip[..., :156], 0)
