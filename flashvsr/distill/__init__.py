"""Training objectives in plain PyTorch, and one LightningModule per stage in ``flashvsr.distill.lit``."""

from flashvsr.distill.adversarial import (
    FeatureDiscriminator,
    PatchDiscriminator,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from flashvsr.distill.batches import draw_history
from flashvsr.distill.dmd import dmd_loss
from flashvsr.distill.flow_matching import Schedule, flow_matching_loss, packed_flow_matching_loss
from flashvsr.distill.one_step import OneStepObjective, decode_window, draw_window
from flashvsr.distill.reconstruction import ReconstructionLoss

__all__ = [
    "FeatureDiscriminator",
    "OneStepObjective",
    "PatchDiscriminator",
    "ReconstructionLoss",
    "Schedule",
    "decode_window",
    "dmd_loss",
    "draw_history",
    "draw_window",
    "flow_matching_loss",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "packed_flow_matching_loss",
]
