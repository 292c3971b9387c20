"""What every training stage needs and no objective is: optimizers, schedules, seeded numbers, sharding, gradients.

Plain PyTorch; the Lightning callbacks are in ``flashvsr.training.callbacks``.
"""

from flashvsr.training.optimizers import FanInAdamW, WarmupCosine
from flashvsr.training.seeded import seeded_normal, seeded_uniform
from flashvsr.training.sharding import shard_networks

__all__ = ["FanInAdamW", "WarmupCosine", "seeded_normal", "seeded_uniform", "shard_networks"]
