"""An attention layer and a decoder of your own for flashvsr: recipes and model folders name them by class path."""

from my_attention.attention import AxialAttention, axial_mask
from my_attention.decoder import FadingDecoder, FadingState

__all__ = ["AxialAttention", "FadingDecoder", "FadingState", "axial_mask"]
