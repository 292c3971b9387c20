"""What decoded frames are compared with the ground truth by: pixels, and a perceptual term chosen by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional

PIXEL = ("charbonnier", "mse")
PERCEPTUAL = ("lpips", "ms_ssim", "fft", "none")
_CHARBONNIER_EPS = 1e-3


class ReconstructionLoss(nn.Module):
    """Pixel error plus a perceptual term, per sample and in fp32, whatever autocast says.

    Args:
        pixel: ``"charbonnier"``, the mean of ``sqrt(d^2 + 1e-6)``, or ``"mse"``.
        pixel_weight: Of the pixel term.
        perceptual: ``"lpips"`` (VGG or AlexNet features; torchmetrics downloads their weights at first use),
            ``"ms_ssim"`` (``1 - MS-SSIM``; frames larger than 160 pixels with five `ms_ssim_betas`), ``"fft"`` (mean
            absolute difference of the real and imaginary parts of the orthonormal 2D transform), or ``"none"``.
            The one that is asked for runs or raises.
        perceptual_weight: Of the perceptual term.
        temporal_weight: Of the Charbonnier difference between the changes from frame to frame; 0 leaves it out.
        motion: Measures flicker along the motion of the truth: `[B, 3, T, H, W]` in [0, 1] twice to `[B]`, such as
            :class:`~flashvsr.evaluate.warping.WarpingLoss`. None for no such term.
        motion_weight: Of it; 0 leaves it out.
        first_frame_weight: Factor on the pixel term of samples whose window holds frame 0 of its clip.
        sharpen: Strength of an unsharp mask on the truth that frames are compared with: what cannot be known comes out
            blurred, and the mask makes up for it, at the price of some PSNR. 0 for none.
        sharpen_sigma: Standard deviation of its Gaussian, in pixels.
        features: Compares pictures by what a network sees: `[B, 3, H, W]` in [0, 1] twice to distances `[B]`, such as
            :class:`~flashvsr.evaluate.features.LiteDistance`. None for no such term.
        feature_weight: Of it.
        feature_every: Of how many frames one is compared so. A number that 4 does not divide meets all four frames of a
            latent.
        lpips_net: ``"vgg"``, ``"alex"`` or ``"squeeze"``.
        ms_ssim_betas: Weights of the scales of MS-SSIM, from fine to coarse.

    Raises:
        ValueError: If a name is unknown, a weight has nothing to weigh, `sharpen` is negative or `sharpen_sigma` is not
            positive.
        RuntimeError: If LPIPS is asked for and its weights cannot be had.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, stage 3 and decoder; LPIPS, https://arxiv.org/abs/1801.03924;
        MS-SSIM, https://doi.org/10.1109/ACSSC.2003.1292216; sharpened truth as in Real-ESRGAN,
        https://arxiv.org/abs/2107.10833, section 3.4.
    """

    def __init__(
        self,
        pixel: str = "charbonnier",
        pixel_weight: float = 1.0,
        perceptual: str = "none",
        perceptual_weight: float = 1.0,
        *,
        temporal_weight: float = 0.0,
        motion: Callable[..., Any] | None = None,
        motion_weight: float = 0.0,
        first_frame_weight: float = 4.0,
        sharpen: float = 0.0,
        sharpen_sigma: float = 2.0,
        features: Callable[..., Any] | None = None,
        feature_weight: float = 0.0,
        feature_every: int = 3,
        lpips_net: str = "vgg",
        ms_ssim_betas: Sequence[float] = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333),
    ) -> None:
        super().__init__()
        if pixel not in PIXEL:
            raise ValueError(f"pixel is one of {', '.join(PIXEL)}, got {pixel!r}")
        if perceptual not in PERCEPTUAL:
            raise ValueError(f"perceptual is one of {', '.join(PERCEPTUAL)}, got {perceptual!r}")
        if sharpen < 0 or sharpen_sigma <= 0:
            raise ValueError(f"sharpen is at least 0 and sharpen_sigma positive, got {sharpen} and {sharpen_sigma}")
        if (features is None) != (feature_weight == 0) or feature_weight < 0 or feature_every < 1:
            raise ValueError(
                f"features={features}, feature_weight={feature_weight}, feature_every={feature_every}: features need a"
                " positive weight, a weight needs features, and every counts from 1"
            )
        if motion_weight < 0 or (motion_weight and motion is None):
            raise ValueError(f"motion_weight={motion_weight}: a weight of at least 0 needs a motion, got {motion}")
        self.motion, self.motion_weight = motion, motion_weight
        self.features, self.feature_weight, self.feature_every = features, feature_weight, feature_every
        self.pixel, self.pixel_weight = pixel, pixel_weight
        self.sharpen, self.sharpen_sigma = sharpen, sharpen_sigma
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self.temporal_weight, self.first_frame_weight = temporal_weight, first_frame_weight
        self.ms_ssim_betas = tuple(ms_ssim_betas)
        if perceptual == "lpips":
            self.lpips = _lpips(lpips_net).requires_grad_(False)

    def forward(self, sr: Tensor, hr: Tensor, first: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Compare.

        Args:
            sr: `[B, 3, T, H, W]`, about [-1, 1].
            hr: Likewise, the truth.
            first: Boolean `[B]`, whether the frames begin with frame 0 of their clip; None for no.

        Returns:
            The loss `[B]`, and its unweighted parts `[B]` by name, detached, for logging.
        """
        with torch.autocast(sr.device.type, enabled=False):
            sr, hr = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (sr, hr))
            if self.sharpen:
                hr = _sharpened(hr, self.sharpen, self.sharpen_sigma)
            pixel = (_charbonnier if self.pixel == "charbonnier" else _mse)(sr, hr)
            parts = {self.pixel: pixel}
            if first is not None:
                pixel = torch.where(first, self.first_frame_weight * pixel, pixel)
            loss = self.pixel_weight * pixel
            if self.perceptual != "none":
                parts[self.perceptual] = self._perceptual(sr, hr)
                loss = loss + self.perceptual_weight * parts[self.perceptual]
            if self.features is not None:
                parts["features"] = self._feature_distance(self.features, sr, hr)
                loss = loss + self.feature_weight * parts["features"]
            if self.temporal_weight and sr.shape[2] > 1:
                parts["temporal"] = _charbonnier(sr.diff(dim=2), hr.diff(dim=2))
                loss = loss + self.temporal_weight * parts["temporal"]
            if self.motion is not None and self.motion_weight and sr.shape[2] > 1:
                parts["motion"] = self.motion(*(x.add(1).mul(0.5) for x in (sr, hr)))
                loss = loss + self.motion_weight * parts["motion"]
        return loss, {name: part.detach() for name, part in parts.items()}

    def _perceptual(self, sr: Tensor, hr: Tensor) -> Tensor:
        pictures, truth = (x.transpose(1, 2).flatten(0, 1) for x in (sr, hr))  # [B*T, 3, H, W]
        compare: Callable[[Tensor, Tensor], Tensor] = getattr(self, f"_{self.perceptual}")
        return compare(pictures, truth).view(sr.shape[0], -1).mean(1)

    def _feature_distance(self, features: Callable[..., Any], sr: Tensor, hr: Tensor) -> Tensor:
        pairs = [x[:, :, :: self.feature_every].transpose(1, 2).flatten(0, 1).add(1).mul(0.5) for x in (sr, hr)]
        return features(*pairs).view(sr.shape[0], -1).mean(1)

    def _lpips(self, sr: Tensor, hr: Tensor) -> Tensor:
        dtype = next(self.lpips.parameters()).dtype  # bf16 where a trainer has cast all modules
        return self.lpips(sr.to(dtype), hr.to(dtype)).float()

    def _ms_ssim(self, sr: Tensor, hr: Tensor) -> Tensor:
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

        similarity = multiscale_structural_similarity_index_measure(
            (sr + 1) / 2, (hr + 1) / 2, data_range=1.0, reduction="none", betas=self.ms_ssim_betas, normalize="relu"
        )
        return 1 - torch.as_tensor(similarity)

    def _fft(self, sr: Tensor, hr: Tensor) -> Tensor:
        difference = torch.view_as_real(torch.fft.rfft2(sr - hr, norm="ortho"))
        return difference.abs().flatten(1).mean(1)


@torch.no_grad()
def _sharpened(x: Tensor, strength: float, sigma: float) -> Tensor:
    """Unsharp mask of `[B, 3, T, H, W]`, inside [-1, 1]; borders are replicated."""
    radius = math.ceil(3 * sigma)
    weight = torch.exp(-torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device).square() / (2 * sigma**2))
    weight = (weight / weight.sum()).view(1, 1, 1, -1)
    planes = x.flatten(0, 2)[:, None]
    blurred = functional.conv2d(functional.pad(planes, (radius, radius, 0, 0), mode="replicate"), weight)
    blurred = functional.conv2d(functional.pad(blurred, (0, 0, radius, radius), mode="replicate"), weight.mT)
    return (x + strength * (x - blurred.view_as(x))).clamp(-1, 1)


def _charbonnier(sr: Tensor, hr: Tensor) -> Tensor:
    return torch.sqrt((sr - hr).square() + _CHARBONNIER_EPS**2).flatten(1).mean(1)


def _mse(sr: Tensor, hr: Tensor) -> Tensor:
    return (sr - hr).square().flatten(1).mean(1)


def _lpips(net: str) -> nn.Module:
    """The network inside torchmetrics' LPIPS: the metric around it refuses pictures that leave [-1, 1]."""
    way_out = "choose perceptual='ms_ssim' or 'fft', which download nothing"
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except ImportError as error:
        raise RuntimeError(f"LPIPS needs torchmetrics: pip install flashvsr[train]; or {way_out}") from error
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type=net).net  # type: ignore[arg-type]  # it checks the name
    except (URLError, OSError, ModuleNotFoundError) as error:
        raise RuntimeError(f"the weights of LPIPS ({net}) cannot be had: {error}; or {way_out}") from error
