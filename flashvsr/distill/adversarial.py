"""The optional adversarial term: discriminators of pictures, and the hinge losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Says of each patch of each frame how real it looks; convolutions with spectral norm, receptive field 46 pixels.

    Args:
        width: Channels of the first layer.

    Reference:
        PatchGAN, https://arxiv.org/abs/1611.07004; spectral norm, https://arxiv.org/abs/1802.05957.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [spectral_norm(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(4 * width, 1, 4, 1, 1)))

    def forward(self, frames: Tensor) -> Tensor:
        """Frames `[B, 3, T, H, W]` in [-1, 1] to `[B, patches]`."""
        scores = self.layers(frames.transpose(1, 2).flatten(0, 1))
        return scores.unflatten(0, (frames.shape[0], -1)).flatten(1)


class FeatureDiscriminator(nn.Module):
    """Says how real frames look by what a trained network sees in them: one small head for each of its layers.

    The network is not trained, and in no checkpoint. Heads learn from far less data than a discriminator of pixels.

    Args:
        features: Pictures `[B, 3, H, W]` in [0, 1] to features `[B, C, h, w]` of several layers, from fine to coarse,
            such as :class:`~flashvsr.evaluate.features.LiteTaps`; gradients pass through it.
        channels: C of each layer.
        width: Channels of a head.
        every: Of how many frames one is looked at. A number that 4 does not divide meets all four frames of a latent.

    Raises:
        ValueError: If a number is below 1, or (when called) layers and `channels` do not fit.

    Reference:
        Projected GANs, https://arxiv.org/abs/2111.01007.
    """

    def __init__(
        self, features: Callable[..., Sequence[Tensor]], channels: Sequence[int], width: int = 64, every: int = 1
    ) -> None:
        super().__init__()
        if min(*channels, width, every) < 1:
            raise ValueError(f"channels={list(channels)}, width={width} and every={every} count from 1")
        self.features, self.channels, self.every = features, tuple(channels), every
        self.heads = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(count, width, 1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, width, 3, padding=1)),
                nn.LeakyReLU(0.2),
                spectral_norm(nn.Conv2d(width, 1, 1)),
            )
            for count in self.channels
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Frames `[B, 3, T, H, W]` in [-1, 1] to `[B, patches]`: of each layer a score per place of the coarsest."""
        seen = frames[:, :, :: self.every].transpose(1, 2).flatten(0, 1).add(1).mul(0.5)
        layers = self.features(seen)
        if tuple(layer.shape[1] for layer in layers) != self.channels:
            raise ValueError(
                f"the features have {[layer.shape[1] for layer in layers]} channels, expected {list(self.channels)}"
            )
        height, width = layers[-1].shape[2:]
        scores = [
            adaptive_avg_pool2d(head(layer), (height, width)) for head, layer in zip(self.heads, layers, strict=True)
        ]  # as many of every layer
        return torch.cat(scores, 1).unflatten(0, (frames.shape[0], -1)).flatten(1)


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """Loss of the generator from scores `[B, patches]` of its pictures; `[B]`."""
    return -fake.float().mean(1)


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator from scores `[B, patches]` of real and generated pictures; `[B]`.

    Reference:
        Geometric GAN, https://arxiv.org/abs/1705.02894.
    """
    return relu(1 - real.float()).mean(1) + relu(1 + fake.float()).mean(1)
