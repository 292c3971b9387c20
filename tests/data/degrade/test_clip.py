import random
from itertools import islice

import numpy as np
import pytest
import torch

from flashvsr.data import Degradation
from flashvsr.data.degrade import Blur, Codec, DegradationRound, Jpeg, Noise, Resize
from flashvsr.data.degrade.resize import bicubic_quarter
from flashvsr.video.example import ExampleSource

NOTHING = DegradationRound(
    Blur(probability=0), Resize(probability=0), Noise(probability=0), Jpeg(probability=0), Codec(probability=0)
)
NO_BLUR = Blur(probability=0)


@pytest.fixture(scope="module")
def clip():
    return torch.stack([frame.pixels[:, :96, :128] for frame in islice(ExampleSource().frames(0), 9)])


@pytest.mark.parametrize("preset", ["realbasicvsr", "mild"])
def test_the_same_seed_gives_the_same_clip_whatever_the_global_state_and_threads(clip, preset):
    degradation = Degradation(preset)
    results = []
    threads = torch.get_num_threads()
    for number in (1, 2):
        torch.manual_seed(number), random.seed(number), np.random.seed(number)
        torch.set_num_threads(number)
        results.append([degradation(clip, seed) for seed in range(4)])
    torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(results[0][0], results[0][1])


def test_a_light_clip_is_spoiled_less_than_a_mild_one_and_more_than_a_clean_one(clip):
    clean = Degradation("light", clean_fraction=1.0)(clip, 0).float()
    light, mild = (
        sum((Degradation(preset)(clip, seed).float() - clean).abs().mean() for seed in range(6))
        for preset in ("light", "mild")
    )
    assert 0.5 < light < 0.8 * mild


def test_global_random_state_is_left_alone(clip):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = (torch.rand(1), np.random.rand(), random.random())
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    Degradation()(clip[:2], 5)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected


@pytest.mark.parametrize("seed", range(6))
def test_frames_that_follow_change_no_frame_without_a_codec(clip, seed):
    stage = DegradationRound(codec=Codec(probability=0))
    degradation = Degradation(first=stage, second=stage)
    assert torch.equal(degradation(clip, seed)[:4], degradation(clip[:4], seed))


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
@pytest.mark.parametrize("size", [(96, 128), (64, 64), (45, 62), (16, 18)])
def test_every_length_and_size_gives_as_many_frames_of_a_quarter(clip, frames, size):
    for seed in range(3):
        low = Degradation()(clip[:frames, :, : size[0], : size[1]], seed)
        assert low.shape == (frames, 3, (size[0] + 2) // 4, (size[1] + 2) // 4)
        assert low.dtype == torch.uint8


def test_a_stream_is_the_call_and_reads_only_a_bounded_number_of_frames_ahead(clip):
    degradation = Degradation()
    frames = clip.repeat(16, 1, 1, 1)[..., :64, :64]
    read = 0

    def counted():
        nonlocal read
        for frame in frames:
            read += 1
            yield frame

    ahead, result = [], []
    for number, low in enumerate(degradation.stream(counted(), 7)):
        result.append(low)
        ahead.append(read - number)
    assert max(ahead) < 100 < len(frames)
    assert torch.equal(torch.stack(result), degradation(frames, 7))


def test_an_empty_stream_stays_empty():
    assert list(Degradation().stream([], 0)) == []


def test_presets_are_mixed_by_the_seed_of_the_clip(clip):
    mixed = Degradation({"realbasicvsr": 0.5, "mild": 0.5})
    heavy, mild = Degradation("realbasicvsr"), Degradation("mild")
    chosen = [[torch.equal(mixed(clip[:1], seed), one(clip[:1], seed)) for one in (heavy, mild)] for seed in range(12)]
    assert all(sum(one) == 1 for one in chosen)
    assert 3 < sum(one[0] for one in chosen) < 9
    for wrong in ({"mild": 0.5}, {"mild": 1.5, "realbasicvsr": -0.5}, {}):
        with pytest.raises(ValueError, match="sum to 1"):
            Degradation(wrong)
    with pytest.raises(ValueError, match="'wild'"):
        Degradation({"wild": 1.0})


def test_clean_fraction_is_the_share_of_clips_that_are_only_reduced(clip):
    clean = bicubic_quarter(clip[0])
    assert torch.equal(Degradation(clean_fraction=1)(clip[:1], 3)[0], clean)
    kept = sum(torch.equal(Degradation(clean_fraction=0.5)(clip[:1], seed)[0], clean) for seed in range(30))
    assert 9 <= kept <= 21
    assert not any(torch.equal(Degradation()(clip[:1], seed)[0], clean) for seed in range(10))


def test_the_seed_decides_the_same_draws_with_and_without_clean_clips(clip):
    mixed, plain = Degradation(clean_fraction=0.5), Degradation()
    clean = bicubic_quarter(clip[0])
    results = [(mixed(clip[:1], seed), plain(clip[:1], seed)) for seed in range(8)]
    assert all(torch.equal(a, b) or torch.equal(a[0], clean) for a, b in results)
    assert any(torch.equal(a, b) for a, b in results)


def test_what_is_held_over_a_clip_makes_equal_frames_equal(clip):
    still = clip[:1].expand(6, -1, -1, -1)
    steps = Blur(sigma_step=0, angle_step=0, beta_gaussian_step=0, beta_plateau_step=0, omega_step=0)
    stage = DegradationRound(steps, Resize(step=0), Noise(probability=0), Jpeg(quality_step=0), Codec(probability=0))
    sinc = Blur(kernels={"sinc": 1.0}, omega_step=0)
    for seed in range(5):
        low = Degradation(first=stage, second=stage, sinc=sinc)(still, seed)
        assert torch.equal(low, low[:1].expand_as(low))
    drifting = Degradation(
        first=DegradationRound(noise=Noise(probability=0), codec=Codec(probability=0)), second=NOTHING
    )
    low = drifting(still, 0)
    assert not torch.equal(low[0], low[5])


def test_noise_is_new_in_every_frame(clip):
    noise = Noise(gaussian=1, gaussian_sigma=(20, 20))
    stage = DegradationRound(NO_BLUR, Resize(probability=0), noise, Jpeg(probability=0), Codec(probability=0))
    low = Degradation(first=stage, second=NOTHING, sinc=NO_BLUR)(torch.full((2, 3, 96, 96), 128, dtype=torch.uint8), 1)
    one, other = (low.float() - 128).flatten(1)
    assert one.std() > 3
    assert abs(float(torch.corrcoef(torch.stack((one, other)))[0, 1])) < 0.1


def test_nothing_at_all_is_only_a_change_of_size(clip):
    low = Degradation(first=NOTHING, second=NOTHING, sinc=NO_BLUR)(clip, 0)
    clean = torch.stack([bicubic_quarter(frame) for frame in clip])
    assert float((low.float() - clean.float()).abs().mean()) < 6


def test_bad_arguments_are_refused(clip):
    with pytest.raises(ValueError, match=r"uint8 \[T, 3, H, W\]"):
        Degradation()(clip.float(), 0)
    with pytest.raises(ValueError, match="T >= 1"):
        Degradation()(clip[:0], 0)
    with pytest.raises(ValueError, match="'strong': expected one of realbasicvsr, mild"):
        Degradation("strong")
    with pytest.raises(ValueError, match="clean_fraction=2"):
        Degradation(clean_fraction=2)
