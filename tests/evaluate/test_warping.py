"""Flow, warping and visibility on motion that is known."""

from __future__ import annotations

import math

import pytest
import torch

from flashvsr.evaluate import PairWarp, estimate_flow, visible, warp


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
