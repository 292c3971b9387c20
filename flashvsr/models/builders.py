"""Functions that build the published models, at their sizes."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from flashvsr.attention import LocalSparseAttention
from flashvsr.decoders import TinyConditionalDecoder, WanVAE
from flashvsr.models.dit import VideoDiT
from flashvsr.models.lr_projection import LRProjection


def video_dit_1b(
    attention: Callable[[int, int], nn.Module] = LocalSparseAttention, *, activation_checkpointing: bool = False
) -> VideoDiT:
    """Wan2.1-1.3B, the backbone of FlashVSR: 1,418,996,800 parameters.

    Args:
        attention: Builds a self-attention layer from (dim, heads).
        activation_checkpointing: Whether activations are computed again in the backward pass, for training in less
            memory.

    Returns:
        The model, with fresh parameters.

    Reference:
        Wan2.1, https://arxiv.org/abs/2503.20314.
    """
    return VideoDiT(
        1536, 30, 12, 8960, text_dim=4096, attention=attention, activation_checkpointing=activation_checkpointing
    )


def lr_projection_1b(variant: str = "causal") -> LRProjection:
    """LR projection of FlashVSR: 287,845,888 parameters.

    Args:
        variant: ``"causal"`` (v1.1) or ``"buffered"`` (v1).

    Returns:
        The model, with fresh parameters.
    """
    return LRProjection(hidden=(2048, 3072), dim=1536, variant=variant)


def tiny_conditional_decoder_1b() -> TinyConditionalDecoder:
    """Tiny conditional decoder of FlashVSR: 45,338,371 parameters.

    Returns:
        The model, with fresh parameters.
    """
    return TinyConditionalDecoder(channels=(512, 256, 128, 128))


def wan_vae() -> WanVAE:
    """Video VAE of Wan2.1: 126,892,531 parameters.

    Returns:
        The model, with fresh parameters.

    Reference:
        Wan2.1, https://arxiv.org/abs/2503.20314.
    """
    return WanVAE(base_width=96)
