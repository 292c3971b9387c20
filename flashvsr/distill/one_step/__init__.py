"""The one-step stage: what it computes, and its LightningModule in ``lit``."""

from flashvsr.distill.one_step.objective import OneStepObjective

__all__ = ["OneStepObjective"]
