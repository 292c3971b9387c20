"""Latents, and LR frames where they are a condition, become pictures.

Every decoder is called the same way, ``frames, state = decoder(latents, lr, state)``, and streams: ``state`` None is
the start of a clip, and any split of a clip into calls gives the same frames.
"""

from flashvsr.decoders.color import adain_color, wavelet_color
from flashvsr.decoders.conditional_encoder import ConditionalEncoder
from flashvsr.decoders.tiny import TinyDecoder, TinyDecoderState
from flashvsr.decoders.tiny_conditional import TinyConditionalDecoder
from flashvsr.decoders.tiny_vae import TinyEncoderState, TinyVAE
from flashvsr.decoders.wan_blocks import WanVAEState
from flashvsr.decoders.wan_vae import WanVAE

__all__ = [
    "ConditionalEncoder",
    "TinyConditionalDecoder",
    "TinyDecoder",
    "TinyDecoderState",
    "TinyEncoderState",
    "TinyVAE",
    "WanVAE",
    "WanVAEState",
    "adain_color",
    "wavelet_color",
]
