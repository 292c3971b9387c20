"""Temporal warping error: how much a video changes along the motion of the ground truth.

The flow needs no weights: dense pyramidal Lucas-Kanade on the luma of the ground truth, so it is the same for every
method and on every machine. It is less exact than a learned flow where motion is large or texture is missing; the
forward-backward check leaves such pixels out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 5
ITERATIONS = 4
RADIUS = 7
SMALLEST = 16  # no pyramid level has a shorter side
DAMPING = 1e-3  # added to the structure tensor of luma in [0, 1]: a window without texture keeps the coarser flow
LONGEST_STEP = 2.0  # pixels per iteration
LEAST_VISIBLE = 0.1  # a pair of frames with fewer visible pixels is a cut,
TRUST = 50.0  # how fast the weight of a pixel falls with the squared change of the truth there
MOST_CHANGE = 0.5  # and so is one that still differs by more than this part of the variance when warped


def estimate_flow(first: Tensor, second: Tensor) -> Tensor:
    """Where each pixel of one frame lies in the next: pyramidal iterative Lucas-Kanade, dense.

    Five levels at most, four iterations each, a window of 15x15 pixels; steps of more than 2 pixels are cut.

    Args:
        first: Luma `[B, 1, H, W]`, floating point in [0, 1].
        second: Luma of the next frame, of the same shape.

    Returns:
        `[B, 2, H, W]` in pixels, x then y, in the dtype of `first`: ``first(p)`` is ``second(p + flow(p))``.

    Reference:
        B. Lucas and T. Kanade, An iterative image registration technique, IJCAI 1981; J.-Y. Bouguet, Pyramidal
        implementation of the Lucas Kanade feature tracker, Intel 2001.
    """
    pyramid = [(first, second)]
    while len(pyramid) < LEVELS and min(pyramid[-1][0].shape[-2:]) >= 2 * SMALLEST:
        pyramid.append((_halved(pyramid[-1][0]), _halved(pyramid[-1][1])))
    flow = torch.zeros_like(pyramid[-1][0]).expand(-1, 2, -1, -1)
    for one, two in reversed(pyramid):
        scale = torch.tensor([one.shape[3] / flow.shape[3], one.shape[2] / flow.shape[2]]).to(flow)
        flow = functional.interpolate(flow, size=one.shape[-2:], mode="bilinear") * scale.view(1, 2, 1, 1)
        flow = _refine(one, two, flow)
    return flow


def warp(frames: Tensor, flow: Tensor, mode: str = "bicubic") -> Tensor:
    """Bring the next frame back to where this one is.

    Args:
        frames: `[B, C, H, W]`, floating point.
        flow: `[B, 2, H, W]` in pixels, see :func:`estimate_flow`.
        mode: Of the interpolation, ``"bilinear"`` or ``"bicubic"``.

    Returns:
        `[B, C, H, W]`; what lies outside is the border's value.
    """
    height, width = frames.shape[-2:]
    rows, columns = _positions(height, width, flow)
    x = (columns + flow[:, 0]) * (2 / width) + (1 / width - 1)
    y = (rows + flow[:, 1]) * (2 / height) + (1 / height - 1)
    return functional.grid_sample(
        frames, torch.stack((x, y), -1), mode=mode, padding_mode="border", align_corners=False
    )


def visible(forward: Tensor, backward: Tensor) -> Tensor:
    """Which pixels of one frame are seen in the next: the way there and back ends where it began.

    Args:
        forward: Flow from the frame to the next, `[B, 2, H, W]`.
        backward: Flow from the next to the frame.

    Returns:
        Boolean `[B, 1, H, W]`; False where the two disagree by more than 0.01 (|there|^2 + |back|^2) + 0.5 squared
        pixels, and outside the next frame.

    Reference:
        N. Sundaram et al., Dense point trajectories by GPU-accelerated large displacement optical flow, ECCV 2010,
        equation 5.
    """
    back = warp(backward, forward, "bilinear")
    apart = (forward + back).square().sum(1)
    length = forward.square().sum(1) + back.square().sum(1)
    height, width = forward.shape[-2:]
    rows, columns = _positions(height, width, forward)
    x, y = columns + forward[:, 0], rows + forward[:, 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return ((apart <= 0.01 * length + 0.5) & inside)[:, None]


class PairWarp:
    """The motion between two frames of the ground truth, to judge every method by.

    Args:
        first: Luma of a frame, `[1, 1, H, W]`, floating point in [0, 1].
        second: Luma of the next.

    Attributes:
        is_cut: Whether the frames have no motion in common: fewer than a tenth of the pixels are visible in both, or
            these still differ by more than half of the variance of the first frame; a 0-d boolean tensor.
    """

    def __init__(self, first: Tensor, second: Tensor) -> None:
        both = estimate_flow(torch.cat((first, second)), torch.cat((second, first)))
        self._flow = both[:1]
        self._mask = visible(both[:1], both[1:]).to(first.dtype)
        left = self._visible_mean((first - warp(second, self._flow)).square())
        self.is_cut = (self._mask.mean() < LEAST_VISIBLE) | (left > MOST_CHANGE * first.var())

    def error(self, first: Tensor, second: Tensor) -> Tensor:
        """How much a method's frames differ along that motion.

        Args:
            first: A method's frame `[1, 3, H, W]`, floating point in [0, 1].
            second: Its next frame.

        Returns:
            Mean squared difference over the visible pixels and the channels, a 0-d tensor in float64; NaN at a cut.

        Reference:
            W.-S. Lai et al., Learning blind video temporal consistency, ECCV 2018, equations 10 and 11 (there with a
            learned flow).
        """
        squared = (first - warp(second, self._flow)).square().mean(1, keepdim=True)
        return torch.where(self.is_cut, torch.nan, self._visible_mean(squared))

    def _visible_mean(self, x: Tensor) -> Tensor:
        return (x * self._mask).sum(dtype=torch.float64) / self._mask.sum(dtype=torch.float64)


class WarpingLoss:
    """How much frames change along the motion of the truth, as a term of a loss; gradients reach the frames only.

    It asks for no change at all, where the truth has some: it belongs beside terms that keep frames sharp, for blur is
    steady. Where the truth itself is not found again in its next frame, because it is hidden there or the flow is
    wrong, little or nothing is asked for.

    Reference:
        W.-S. Lai et al., Learning blind video temporal consistency, ECCV 2018, section 3.2, short-term temporal loss
        (there with a learned flow).
    """

    def __call__(self, frames: Tensor, truth: Tensor) -> Tensor:
        """Compare each frame with the next.

        Args:
            frames: `[B, 3, T, H, W]` in [0, 1], T at least 2.
            truth: Of the same shape.

        Returns:
            `[B]`, the mean absolute change over pairs of frames, pixels and channels; 0 for a picture that moves as the
            truth does, and where nothing of the truth is found again.
        """
        pairs = [x.transpose(1, 2) for x in (frames, truth)]  # [B, T, 3, H, W]
        (first, second), (one, two) = ((x[:, :-1].flatten(0, 1), x[:, 1:].flatten(0, 1)) for x in pairs)
        with torch.no_grad():
            grey, following = one.mean(1, keepdim=True), two.mean(1, keepdim=True)
            forward, backward = estimate_flow(torch.cat((grey, following)), torch.cat((following, grey))).chunk(2)
            away = (one - warp(two, forward)).sum(1, keepdim=True)
            weight = visible(forward, backward) * torch.exp(-TRUST * away.square())
        change = (first - warp(second, forward)).abs().mean(1, keepdim=True)
        batch = len(frames)
        total, kept = ((x.view(batch, -1).sum(1)) for x in (change * weight, weight))
        return total / kept.clamp_min(1)


def _refine(one: Tensor, two: Tensor, flow: Tensor) -> Tensor:
    """Lucas-Kanade iterations at one level; the gradients are those of the first frame."""
    padded = functional.pad(one, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    xx, xy, yy = _window_mean(torch.cat((dx * dx, dx * dy, dy * dy), 1)).split(1, 1)
    xx, yy = xx + DAMPING, yy + DAMPING
    determinant = xx * yy - xy * xy
    for _ in range(ITERATIONS):
        change = warp(two, flow, "bilinear") - one
        tx, ty = _window_mean(torch.cat((dx * change, dy * change), 1)).split(1, 1)
        step = torch.cat((xy * ty - yy * tx, xy * tx - xx * ty), 1) / determinant
        flow = flow + step.clamp(-LONGEST_STEP, LONGEST_STEP)
    return flow


def _window_mean(x: Tensor) -> Tensor:
    """Mean over the window, columns and then rows; at the border over what there is of it."""
    size = 2 * RADIUS + 1
    x = functional.avg_pool2d(x, (1, size), 1, (0, RADIUS), count_include_pad=False)
    return functional.avg_pool2d(x, (size, 1), 1, (RADIUS, 0), count_include_pad=False)


def _halved(luma: Tensor) -> Tensor:
    size = [(pixels + 1) // 2 for pixels in luma.shape[-2:]]
    return functional.interpolate(luma, size=size, mode="bilinear", antialias=True)


def _positions(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.arange(height, device=like.device, dtype=like.dtype)[:, None]
    return rows, torch.arange(width, device=like.device, dtype=like.dtype)[None, :]
