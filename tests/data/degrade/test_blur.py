from math import pi

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flashvsr.data.degrade.blur import BlurWalk, apply_blur, blur_kernel
from flashvsr.data.degrade.settings import KERNEL_KINDS, Blur


def direct(kind, size, sigma, angle, beta, omega):
    """The published formulas, point by point."""
    values = np.zeros((size, size))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    spread = np.diag([sigma[0] ** 2, sigma[1] ** 2])
    inverse = np.linalg.inv(rotation @ spread @ rotation.T if kind.endswith("aniso") else np.eye(2) * sigma[0] ** 2)
    for row in range(size):
        for column in range(size):
            at = np.array([column - size // 2, row - size // 2], dtype=float)
            form = at @ inverse @ at
            if kind == "sinc":
                # J1 as an integral: J1(z) = mean of cos(t - z sin t) over [0, pi]
                angles = (np.arange(2000) + 0.5) * pi / 2000
                radius = np.hypot(*at)
                bessel = np.cos(angles - omega * radius * np.sin(angles)).mean()
                values[row, column] = omega * bessel / (2 * pi * radius) if radius else omega**2 / (4 * pi)
            elif kind.startswith("plateau"):
                values[row, column] = 1 / (1 + form**beta)
            else:
                values[row, column] = np.exp(-0.5 * form ** (beta if kind.startswith("generalized") else 1))
    return torch.from_numpy(values / values.sum()).float()


@pytest.mark.parametrize("kind", KERNEL_KINDS)
def test_a_kernel_sums_to_one_and_follows_its_formula(kind):
    numbers = {"sigma": (0.7, 2.4), "angle": 0.8, "beta": 1.6, "omega": 1.9}
    kernel = blur_kernel(kind, 13, **numbers)
    assert abs(float(kernel.sum()) - 1) < 1e-6
    torch.testing.assert_close(kernel, direct(kind, 13, **numbers), atol=1e-6, rtol=1e-4)


def test_only_the_anisotropic_kinds_have_a_direction():
    for kind in KERNEL_KINDS:
        kernel = blur_kernel(kind, 9, sigma=(0.6, 2.5), angle=0.4)
        assert torch.allclose(kernel, kernel.T, atol=1e-7) == (not kind.endswith("aniso"))


def test_an_unknown_kind_and_an_even_size_are_refused():
    with pytest.raises(ValueError, match=r"'box'.*plateau_iso"):
        blur_kernel("box", 9)
    with pytest.raises(ValueError, match="odd"):
        blur_kernel("iso", 8)


@pytest.mark.parametrize("kind", KERNEL_KINDS)
@pytest.mark.parametrize("size", [(40, 33), (6, 50)])
def test_blurring_is_correlation_with_each_frames_own_kernel(kind, size):
    frames = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0)) * 255
    kernels = torch.stack([blur_kernel(kind, 15, sigma=(0.5 + n, 1.5), angle=0.3 * n, omega=1 + n) for n in range(3)])
    mode = "reflect" if min(size) > 7 else "replicate"
    padded = F.pad(frames, (7, 7, 7, 7), mode=mode).double()
    expected = torch.stack(
        [F.conv2d(frame[:, None], k[None, None].double())[:, 0] for frame, k in zip(padded, kernels, strict=True)]
    ).float()
    torch.testing.assert_close(apply_blur(frames, kernels), expected, atol=5e-3, rtol=0)
    one_by_one = torch.cat([apply_blur(frames[n : n + 1], kernels[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(one_by_one, expected, atol=5e-3, rtol=0)


def test_kinds_come_with_their_published_probabilities():
    kinds = [BlurWalk(Blur(), np.random.default_rng(seed)).kind for seed in range(4000)]
    published = dict(zip(KERNEL_KINDS, (0.405, 0.225, 0.108, 0.027, 0.108, 0.027, 0.1), strict=True))
    for kind, probability in published.items():
        assert abs(kinds.count(kind) / 4000 - probability) < 4 * (probability / 4000) ** 0.5


def test_kind_and_size_hold_and_the_kernel_drifts_by_small_steps():
    walk = BlurWalk(Blur(kernels={"iso": 1.0}, sizes=(21,)), np.random.default_rng(1))
    spreads = []
    axis = (torch.arange(21) - 10.0) ** 2
    for _ in range(40):
        spreads.append(float((next(walk).sum(0) * axis).sum().sqrt()))
    steps = np.abs(np.diff(spreads))
    assert 0 < steps.max() <= 0.025  # sampling a narrow Gaussian shifts its spread a little
    assert np.ptp(spreads) > 0
