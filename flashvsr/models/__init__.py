"""The networks of FlashVSR, the system they make, and the files they come from."""

from flashvsr.models.builders import lr_projection_1b, tiny_conditional_decoder_1b, video_dit_1b, wan_vae
from flashvsr.models.decoder_system import DecoderSystem
from flashvsr.models.dit import VideoDiT
from flashvsr.models.loading import component, load
from flashvsr.models.lora import merge_lora, merged_state_dict, with_lora
from flashvsr.models.lr_projection import LRProjection
from flashvsr.models.official import load_wan_base
from flashvsr.models.sampler import FlowSchedule, sample_latents
from flashvsr.models.system import FlashVSR

__all__ = [
    "DecoderSystem",
    "FlashVSR",
    "FlowSchedule",
    "LRProjection",
    "VideoDiT",
    "component",
    "load",
    "load_wan_base",
    "lr_projection_1b",
    "merge_lora",
    "merged_state_dict",
    "sample_latents",
    "tiny_conditional_decoder_1b",
    "video_dit_1b",
    "wan_vae",
    "with_lora",
]
