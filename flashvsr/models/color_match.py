"""Colour correction as the last part of a system."""

from __future__ import annotations

from torch import Tensor, nn

from flashvsr.decoders import adain_color, wavelet_color

COLORS = {"adain": adain_color, "wavelet": wavelet_color, "none": None}


class ColorMatch(nn.Module):
    """Bring the colours of frames back to those of the LR frames.

    Args:
        method: ``"adain"``, ``"wavelet"`` or ``"none"``.

    Raises:
        ValueError: If `method` is unknown.
    """

    def __init__(self, method: str = "adain") -> None:
        super().__init__()
        if method not in COLORS:
            raise ValueError(f"color is one of {', '.join(COLORS)}; got {method!r}")
        self.method = method

    def forward(self, frames: Tensor, lr: Tensor, content: tuple[int, int] | None = None) -> Tensor:
        """Match.

        Args:
            frames: `[B, 3, T, H, W]`; may be changed in place.
            lr: LR frames of the same shape.
            content: Height and width of what is not padding, from the top left; None for all.

        Returns:
            `[B, 3, T, H, W]`, the padding as it was.
        """
        match = COLORS[self.method]
        if match is None:
            return frames
        height, width = content or frames.shape[3:]
        original, shown = frames[..., :height, :width], lr[..., :height, :width]
        if not frames.requires_grad:
            match(original, shown, out=original)
            return frames
        matched = match(original, shown)
        if matched.shape == frames.shape:
            return matched
        frames = frames.clone()  # the gradient of the match needs the original
        frames[..., :height, :width] = matched
        return frames
