"""The optional adversarial term: a small discriminator of pictures, and the hinge losses."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu
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


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """Loss of the generator from scores `[B, patches]` of its pictures; `[B]`."""
    return -fake.float().mean(1)


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of the discriminator from scores `[B, patches]` of real and generated pictures; `[B]`.

    Reference:
        Geometric GAN, https://arxiv.org/abs/1705.02894.
    """
    return relu(1 - real.float()).mean(1) + relu(1 + fake.float()).mean(1)
