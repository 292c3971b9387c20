import numpy as np
import pytest
import torch

from flashvsr.data.degrade.noise import NoiseWalk, add_poisson
from flashvsr.data.degrade.settings import Noise


def noisy(frames, settings, seed=0):
    walk = NoiseWalk(settings, np.random.default_rng(seed))
    strength = torch.tensor([next(walk) for _ in frames])
    return walk.apply(frames, strength, torch.Generator().manual_seed(walk.seed)) - frames


@pytest.mark.parametrize("sigma", [1.0, 12.0, 30.0])
def test_gaussian_noise_has_its_sigma_and_no_mean(sigma):
    noise = noisy(torch.full((2, 3, 128, 128), 100.0), Noise(gaussian=1, gaussian_sigma=(sigma, sigma), gray=0))
    assert abs(float(noise.std()) / sigma - 1) < 0.02
    assert abs(float(noise.mean())) < 0.02 * sigma


@pytest.mark.parametrize("gaussian", [0.0, 1.0])
def test_gray_noise_is_the_same_in_all_channels_and_coloured_noise_is_not(gaussian):
    frames = torch.full((1, 3, 64, 64), 100.0)
    gray = noisy(frames, Noise(gaussian=gaussian, gray=1))
    torch.testing.assert_close(gray[:, :1].expand_as(gray), gray, atol=1e-4, rtol=0)
    colour = noisy(frames, Noise(gaussian=gaussian, gray=0))[0].flatten(1)
    assert abs(float(torch.corrcoef(colour)[0, 1])) < 0.1


@pytest.mark.parametrize("level", [5, 40, 128, 250])
def test_poisson_noise_has_the_mean_and_variance_of_counts(level):
    frames = torch.full((1, 3, 200, 200), float(level))
    frames[..., :16, :16] = torch.arange(256.0).view(16, 16)  # all 256 values: a count of 256 at white
    normal = torch.randn(1, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    noise = (add_poisson(frames, normal, torch.tensor([1.0])) - frames)[..., 16:, 16:] * 256 / 255  # in counts
    count = level / 255 * 256
    assert abs(float(noise.mean())) < 0.05 * count**0.5
    assert abs(float(noise.var()) / count - 1) < 0.06


def test_black_stays_black_under_poisson_noise():
    frames = torch.zeros(1, 3, 32, 32)
    frames[..., 0, :] = 200.0
    normal = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert (add_poisson(frames, normal, torch.tensor([3.0]))[..., 1:, :] == 0).all()


def test_poisson_noise_scales():
    frames = torch.full((2, 3, 32, 32), 90.0)
    normal = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    single, double = add_poisson(frames, normal, torch.tensor([0.5, 1.0])) - frames
    torch.testing.assert_close(2 * single, double, atol=1e-3, rtol=0)


def test_kinds_come_with_their_published_probabilities():
    walks = [NoiseWalk(Noise(), np.random.default_rng(seed)) for seed in range(2000)]
    assert abs(sum(walk.gaussian for walk in walks) / 2000 - 0.5) < 0.04
    assert abs(sum(walk.gray for walk in walks) / 2000 - 0.4) < 0.04


def test_strength_drifts_inside_its_range():
    walk = NoiseWalk(Noise(gaussian=1, gaussian_sigma=(5, 5.3)), np.random.default_rng(0))
    values = np.array([next(walk) for _ in range(200)])
    assert values.min() >= 5
    assert values.max() <= 5.3
    assert 0 < np.abs(np.diff(values)).max() <= 0.1
