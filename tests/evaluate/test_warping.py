"""Flow, warping and visibility on motion that is known."""

from __future__ import annotations

import math

import pytest
import torch

from flashvsr.evaluate import PairWarp, estimate_flow, visible, warp
from flashvsr.evaluate.warping import WarpingLoss


def _texture(height: int, width: int, dx: float = 0, dy: float = 0) -> torch.Tensor:
    """A smooth picture `[1, 1, H, W]`, moved by (dx, dy) pixels exactly."""
    y, x = torch.meshgrid(torch.arange(0.0, height) - dy, torch.arange(0.0, width) - dx, indexing="ij")
    waves = (x / 5 + y / 9).sin() + (x / 11 - y / 6).sin() + (x / 23 + y / 31).cos()
    return (waves / 6 + 0.5)[None, None]


@pytest.mark.parametrize(("dx", "dy", "within"), [(0, 0, 1e-4), (0.5, -0.25, 0.05), (3, 2, 0.05), (-9, 6, 0.3)])
def test_flow_finds_a_shift(dx, dy, within):
    flow = estimate_flow(_texture(96, 128), _texture(96, 128, dx, dy))
    inner = flow[0, :, 16:-16, 16:-16]
    assert (inner[0] - dx).abs().median() < within and (inner[1] - dy).abs().median() < within


def test_flow_of_odd_sizes_and_flat_pictures_is_finite():
    assert estimate_flow(_texture(71, 45), _texture(71, 45, 1)).isfinite().all()
    flat = torch.full((1, 1, 64, 64), 0.5)
    assert torch.equal(estimate_flow(flat, flat), torch.zeros(1, 2, 64, 64))


def test_warping_by_whole_pixels_is_exact():
    frame = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    flow = torch.zeros(1, 2, 40, 50)
    flow[:, 0], flow[:, 1] = 3, -2
    back = warp(frame, flow)
    torch.testing.assert_close(back[..., 2:, :-3], frame[..., :-2, 3:], atol=1e-5, rtol=0)


def test_what_leaves_the_picture_or_disagrees_is_not_visible():
    forward, backward = torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 32, 32)
    forward[:, 0], backward[:, 0] = 4, -4
    backward[:, 0, 10:20] = 2  # the way back ends elsewhere
    seen = visible(forward, backward)[0, 0]
    assert seen[0, :28].all() and not seen[:, 28:].any()
    assert not seen[10:20].any()


def test_the_error_of_a_moved_picture_is_that_of_interpolation_only():
    first, second = _texture(96, 128), _texture(96, 128, 2.5, 1)
    pair = PairWarp(first, second)
    assert not pair.is_cut
    unmoved = float((first - second).square().mean())
    assert float(pair.error(first.expand(1, 3, -1, -1), second.expand(1, 3, -1, -1))) < 0.01 * unmoved


def test_a_cut_has_no_error():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(1, 1, 128, 128, generator=generator) for _ in range(2))
    pair = PairWarp(first, second)
    assert bool(pair.is_cut) and math.isnan(pair.error(first.expand(1, 3, -1, -1), second.expand(1, 3, -1, -1)))


def _moving(frames: int = 4, speed: float = 1.5) -> torch.Tensor:
    """A texture that moves, `[1, 3, T, H, W]`."""
    return torch.stack([_texture(64, 80, speed * t, t)[0].expand(3, -1, -1) for t in range(frames)], 1)[None]


def test_the_loss_is_small_for_what_moves_as_the_truth_does_and_the_size_of_a_flicker_otherwise():
    truth = _moving()
    flicker = 0.1 * torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 4, 1, 1)
    shown = truth, truth + flicker, truth[:, :, :1].expand(-1, -1, 4, -1, -1)
    steady, flickering, still = (float(WarpingLoss()(frames, truth)) for frames in shown)
    assert steady < 0.005
    assert flickering == pytest.approx(0.2, abs=0.005)
    assert still > 5 * steady  # what stands still where the truth moves is no less wrong


def test_blur_is_steadier_than_the_noise_that_it_removes():
    truth = _moving()
    noisy = truth + 0.05 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool3d(noisy, (1, 3, 3), 1, (0, 1, 1))
    steady, loud = (float(WarpingLoss()(x, truth)) for x in (blurred, noisy))
    assert steady < loud / 2


def test_nothing_is_asked_for_across_a_cut():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 3, 1, 64, 64, generator=generator).round()
    truth = torch.cat((truth, 1 - truth), 2)
    frames = torch.rand(1, 3, 2, 64, 64, generator=generator)
    assert float(WarpingLoss()(frames, truth)) < 1e-3


def test_each_sample_of_a_batch_has_its_own_loss_and_only_frames_get_gradients():
    frames, truth = torch.cat((_moving(), _moving() + 0.05)), torch.cat((_moving(), _moving(speed=-2.0)))
    frames[1, :, 2] += 0.2
    frames.requires_grad_(True)
    truth.requires_grad_(True)
    together = WarpingLoss()(frames, truth)
    for index in range(2):
        alone = WarpingLoss()(frames[index : index + 1], truth[index : index + 1])
        torch.testing.assert_close(alone[0], together[index])
    together[1].backward()
    assert truth.grad is None and frames.grad[0].abs().max() == 0
    step = frames.detach() - 0.01 * frames.grad / frames.grad.abs().max()
    assert WarpingLoss()(step, truth)[1] < together[1]
