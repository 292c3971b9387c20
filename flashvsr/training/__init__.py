"""What every training stage needs and no objective is: optimizers, schedules, seeded numbers, sharding, gradients.

Plain PyTorch; the Lightning callbacks are in ``flashvsr.training.callbacks``.
"""

from flashvsr.training.gradients import clip_gradients, gradient_norm, log_gradient_norms
from flashvsr.training.optimizers import FanInAdamW, WarmupCosine, collect_trainable, configure_optimizer
from flashvsr.training.seeded import seeded_normal, seeded_uniform, shared_random
from flashvsr.training.sharding import freeze, shard_networks, shard_stage

__all__ = [
    "FanInAdamW",
    "WarmupCosine",
    "clip_gradients",
    "collect_trainable",
    "configure_optimizer",
    "freeze",
    "gradient_norm",
    "log_gradient_norms",
    "seeded_normal",
    "seeded_uniform",
    "shard_networks",
    "shard_stage",
    "shared_random",
]
