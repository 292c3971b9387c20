"""Whether a picture is larger than its detail, as one that was enlarged before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from flashvsr.streaming import resize_bicubic
from flashvsr.video import VideoFrame, VideoInfo

EVERY = 12  # frames from one that is looked at to the next
WANTED = 3  # frames that must agree
LARGEST = (1080, 1920)  # rows and columns in the middle that are looked at
CONTENT = 1.0  # mean square, in squared levels of 255, of the detail that halving twice removes after halving once
SOFT = 0.12
"""Detail that halving removes, over that which halving once more removes. Of 87 camera clips one has 0.13, the others
0.19 to 1.1. Enlarged twice they have 0.03 to 0.11, and 0.05 to 0.3 when they were encoded since, which adds detail."""


class SoftnessMeter:
    """Looks at some frames of a video and says once whether it is soft.

    Args:
        info: Of the video.
        tell: Called once if it is.
    """

    def __init__(self, info: VideoInfo, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._wanted = min(WANTED, info.frames or WANTED)
        self._number = 0

    def __call__(self, frame: VideoFrame) -> None:
        """Look at the next frame."""
        looked_at = self._number % EVERY == 0 and self._wanted > 0
        self._number += 1
        if not looked_at:
            return
        ratio = detail_ratio(frame.pixels)
        if ratio is None:
            return
        self._wanted = self._wanted - 1 if ratio < SOFT else 0
        if self._wanted == 0 and ratio < SOFT:
            self._tell()


def detail_ratio(pixels: Tensor) -> float | None:
    """How much detail a frame has in its finest octave, over that in the next.

    Args:
        pixels: `[3, h, w]`, uint8 or in [0, 1].

    Returns:
        The ratio of mean squares in luma; None for a frame without detail in either, such as a black one.
    """
    top, left = (max(0, (side - most) // 2) for side, most in zip(pixels.shape[1:], LARGEST, strict=True))
    crop = pixels[:, top : top + LARGEST[0], left : left + LARGEST[1]].float().cpu()
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    luma = (crop * weights * (1 if pixels.dtype == torch.uint8 else 255)).sum(0)[None, None]
    finest, luma = _octave(luma)
    next_finest, _ = _octave(luma)
    return finest / next_finest if next_finest >= CONTENT else None


def _octave(luma: Tensor) -> tuple[float, Tensor]:
    """Mean square of what halving removes, away from the border, and the halved picture."""
    height, width = (side // 2 * 2 for side in luma.shape[-2:])
    luma = luma[..., :height, :width]
    half = resize_bicubic(luma, (height // 2, width // 2))
    removed = (luma - resize_bicubic(half, (height, width))).square()
    return removed[..., 2:-2, 2:-2].mean().item(), half
