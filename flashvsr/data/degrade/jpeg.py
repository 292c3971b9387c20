"""JPEG: the real encoder, and the same arithmetic for a batch on any device."""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from flashvsr.data.degrade.random_walk import RandomWalk
from flashvsr.data.degrade.settings import Jpeg

_LUMA = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99
"""
_CHROMA = """
17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99  47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99  99 99 99 99 99 99 99 99
"""
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


class JpegWalk:
    """The JPEG quality of one clip, drifting.

    Attributes:
        active: Whether this clip is compressed with JPEG.
    """

    def __init__(self, settings: Jpeg, rng: np.random.Generator) -> None:
        self.active = bool(rng.random() < settings.probability)
        self._quality = RandomWalk(rng, settings.quality, settings.quality_step)

    def __next__(self) -> int:
        """Quality of the next frame, 1 to 100."""
        return max(1, round(next(self._quality)))


def encode_jpeg(frame: Tensor, quality: int) -> Tensor:
    """What a frame looks like after JPEG with 4:2:0 chroma: uint8 `[3, H, W]`, there and back."""
    file = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=quality, subsampling=2)
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def quantization_tables(quality: Tensor) -> tuple[Tensor, Tensor]:
    """Tables of luma and chroma as libjpeg scales them.

    Args:
        quality: `[T]` whole numbers, 1 to 100.

    Returns:
        Two of float32 `[T, 8, 8]`, whole numbers 1 to 255; rows are vertical frequencies.

    Reference:
        ITU-T T.81, tables K.1 and K.2; libjpeg, jcparam.c.
    """
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality).float()[:, None, None]

    def scaled(text: str) -> Tensor:
        table = torch.tensor([float(word) for word in text.split()], device=quality.device).view(8, 8)
        return ((table * percent + 50) / 100).floor().clamp_(1, 255)

    return scaled(_LUMA), scaled(_CHROMA)


def simulate_jpeg(frames: Tensor, quality: Tensor) -> Tensor:
    """JPEG without the entropy coding, which loses nothing: transform, quantise, transform back.

    The differences from the real encoder are its integer transforms and the rounding between the steps.

    Args:
        frames: `[T, 3, H, W]` float32 whole numbers in 0..255; sides are padded to multiples of 16 by repeating.
        quality: `[T]` whole numbers, 1 to 100, on the same device.

    Returns:
        `[T, 3, H, W]` float32 whole numbers in 0..255.

    Reference:
        ITU-T T.81, sections A.3.3 and A.3.4; JFIF for the colours.
    """
    height, width = frames.shape[-2:]
    padded = F.pad(frames, (0, -width % 16, 0, -height % 16), mode="replicate")
    y, chroma = _mix(padded, _TO_YCC).round().split((1, 2), 1)
    luma_table, chroma_table = quantization_tables(quality)
    y = _quantize(y - 128, luma_table) + 128
    chroma = _quantize(F.avg_pool2d(chroma, 2).round(), chroma_table)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False).round()
    rgb = _mix(torch.cat((y, chroma), 1), _TO_RGB)
    return rgb[..., :height, :width].round().clamp(0, 255)


def _mix(frames: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Another colour space: each new channel a weighted sum of the three."""
    red, green, blue = frames.unbind(1)
    return torch.stack([a * red + b * green + c * blue for a, b, c in matrix], 1)


def _quantize(planes: Tensor, table: Tensor) -> Tensor:
    """`[T, C, H, W]` through the DCT of 8 x 8 blocks with a table `[T, 8, 8]`, and back, rounded."""
    basis = _dct(planes.device)
    blocks = planes.unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8))  # [T, C, H/8, 8, W/8, 8]
    blocks = blocks.transpose(-2, -3)  # [T, C, H/8, W/8, 8, 8]
    table = table[:, None, None, None]
    coefficients = (basis @ blocks @ basis.T / table).round() * table
    blocks = (basis.T @ coefficients @ basis).transpose(-2, -3)
    return blocks.reshape(planes.shape).round()


def _dct(device: torch.device) -> Tensor:
    """Orthonormal DCT-II of length 8, rows are frequencies."""
    number = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * number + 1) * number[:, None] * torch.pi / 16) / 2
    basis[0] /= 2**0.5
    return basis.float().to(device)
