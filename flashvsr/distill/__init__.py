"""Training objectives in plain PyTorch, and one LightningModule per stage in ``flashvsr.distill.lit``."""

from flashvsr.distill.adversarial import PatchDiscriminator, hinge_discriminator_loss, hinge_generator_loss
from flashvsr.distill.dmd import dmd_loss
from flashvsr.distill.flow_matching import flow_matching_loss, packed_flow_matching_loss
from flashvsr.distill.history import draw_history
from flashvsr.distill.one_step import OneStepObjective
from flashvsr.distill.reconstruction import ReconstructionLoss
from flashvsr.distill.schedule import Schedule
from flashvsr.distill.window import decode_window, draw_window

__all__ = [
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
