from itertools import islice

import pytest
import torch

from flashvsr.data import BatchDegradation, Degradation
from flashvsr.data.degrade import Blur, Codec, DegradationRound, Jpeg, Noise, Resize
from flashvsr.video.example import ExampleSource

NO_BLUR, NO_RESIZE, NO_NOISE = Blur(probability=0), Resize(probability=0), Noise(probability=0)
NO_JPEG, NO_CODEC = Jpeg(probability=0), Codec(probability=0)
NOTHING = DegradationRound(NO_BLUR, NO_RESIZE, NO_NOISE, NO_JPEG, NO_CODEC)


@pytest.fixture(scope="module")
def clip():
    return torch.stack([frame.pixels[:, :96, :128] for frame in islice(ExampleSource().frames(0), 5)])


def both(clip, seed, **settings):
    """The same clip through the two versions, as float `[T, 3, h, w]`."""
    one = Degradation(**settings)(clip, seed)
    other = BatchDegradation(**settings)(clip.transpose(0, 1)[None], torch.tensor([seed]))[0].transpose(0, 1)
    return one.float(), other.float()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "stage",
    [
        DegradationRound(Blur(), NO_RESIZE, NO_NOISE, NO_JPEG, NO_CODEC),
        DegradationRound(NO_BLUR, Resize(step=0), NO_NOISE, NO_JPEG, NO_CODEC),
        DegradationRound(Blur(), Resize(step=0), NO_NOISE, NO_JPEG, NO_CODEC),
    ],
    ids=["blur", "resize", "both"],
)
def test_blur_and_resize_are_those_of_the_worker_version(clip, seed, stage):
    one, other = both(clip, seed, first=stage, second=NOTHING)
    assert (one - other).abs().max() <= 1  # where a half is rounded


@pytest.mark.parametrize("seed", range(4))
def test_jpeg_is_close_to_that_of_the_worker_version(clip, seed):
    one, other = both(
        clip, seed, first=DegradationRound(NO_BLUR, NO_RESIZE, NO_NOISE, Jpeg(), NO_CODEC), second=NOTHING
    )
    assert (one - other).abs().mean() < 0.5


@pytest.mark.parametrize("gaussian", [0.0, 1.0])
def test_noise_has_the_strength_of_the_worker_version(gaussian):
    flat = torch.full((4, 3, 96, 96), 128, dtype=torch.uint8)
    noise = Noise(gaussian=gaussian, gaussian_sigma=(10, 30), poisson_scale=(2, 3))
    stage = DegradationRound(NO_BLUR, NO_RESIZE, noise, NO_JPEG, NO_CODEC)
    for seed in range(3):
        one, other = both(flat, seed, first=stage, second=NOTHING, sinc=NO_BLUR)
        assert abs(float(one.std() / other.std()) - 1) < 0.1
        assert abs(float(one.mean() - other.mean())) < 1


def test_a_sample_does_not_depend_on_its_batch(clip):
    hr = torch.stack([clip, clip.flip(-1), clip.flip(-2)]).transpose(1, 2)
    seeds = torch.tensor([4, 5, 6])
    degradation = BatchDegradation(clean_fraction=0.3)
    together = degradation(hr, seeds)
    assert together.shape == (3, 3, 5, 24, 32)
    assert together.dtype == torch.uint8
    for number in (2, 0, 1):
        assert torch.equal(degradation(hr[number : number + 1], seeds[number : number + 1])[0], together[number])
    assert torch.equal(BatchDegradation(clean_fraction=0.3, threads=1)(hr.flip(0), seeds.flip(0)).flip(0), together)


def test_floats_in_minus_one_to_one_are_the_same_pictures(clip):
    hr = clip.transpose(0, 1)[None]
    seeds = torch.tensor([1])
    degradation = BatchDegradation(first=DegradationRound(noise=NO_NOISE), second=NOTHING)
    difference = degradation(hr, seeds).float() - degradation(hr.float() / 127.5 - 1, seeds).float()
    assert difference.abs().mean() < 0.1


def test_clean_clips_are_within_a_step_of_pils(clip):
    one, other = both(clip, 0, clean_fraction=1.0)
    assert (one - other).abs().max() <= 1


@pytest.mark.parametrize("frames", [1, 5])
def test_the_codec_comes_last_and_fewer_bits_lose_more(clip, frames):
    hr = clip[:frames].transpose(0, 1)[None]
    plain = BatchDegradation(first=NOTHING, second=NOTHING)(hr, torch.tensor([0])).float()
    errors = []
    for bits in (3e6, 1e5, 2e4):
        stage = DegradationRound(NO_BLUR, NO_RESIZE, NO_NOISE, NO_JPEG, Codec(bits=(bits, bits)))
        low = BatchDegradation(first=stage, second=NOTHING)(hr, torch.tensor([0]))
        errors.append(float((low - plain).abs().mean()))
    assert errors[0] < errors[1] < errors[2]


def test_bad_arguments_are_refused(clip):
    with pytest.raises(ValueError, match=r"expected \[B, 3, T, H, W\] and \[B\]"):
        BatchDegradation()(clip, torch.zeros(5))
    with pytest.raises(ValueError, match="threads=0"):
        BatchDegradation(threads=0)


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives_where_nothing_is_drawn_on_it(clip):
    stage = DegradationRound(noise=NO_NOISE, codec=NO_CODEC)
    degradation = BatchDegradation(first=stage, second=NOTHING)
    hr, seeds = clip.transpose(0, 1)[None], torch.tensor([3])
    difference = degradation(hr.cuda(), seeds).cpu().float() - degradation(hr, seeds).float()
    assert difference.abs().mean() < 0.5


@pytest.mark.gpu
def test_a_sample_does_not_depend_on_its_batch_on_a_gpu(clip):
    hr = torch.stack([clip, clip.flip(-1)]).transpose(1, 2).cuda()
    together = BatchDegradation()(hr, torch.tensor([4, 5]))
    assert torch.equal(BatchDegradation()(hr[1:], torch.tensor([5]))[0], together[1])
