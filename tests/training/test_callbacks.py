"""The callbacks of `flashvsr.training.callbacks`, without a training."""

from __future__ import annotations

import threading

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from flashvsr.training.callbacks import WeightAverage
from flashvsr.training.sharding import freeze


class _Stage(LightningModule):
    """Holds what cannot be copied, as a stage does whose optimizer the command line makes later."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.fixed = nn.Linear(2, 3), nn.Linear(3, 3)
        self.trained.lock = self.lock = threading.Lock()
        self.alias = [self.trained.weight]
        self.register_buffer("count", torch.zeros(2))
        freeze(self, ("fixed",))

    def configure_model(self) -> None:
        self.late = nn.Linear(1, 1)


def test_the_average_copies_tensors_and_shares_all_else():
    stage, callback = _Stage(), WeightAverage()
    callback.setup(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), stage, "fit")
    average = callback._average_model.module
    assert average.lock is stage.lock and average.trained.lock is stage.lock
    assert [name for name, _ in average.named_parameters()] == [name for name, _ in stage.named_parameters()]
    assert average.state_dict().keys() == stage.state_dict().keys()
    assert not any(name.startswith("fixed.") for name in average.state_dict())
    tensors = [*zip(average.parameters(), stage.parameters(), strict=True), (average.count, stage.count)]
    assert all(torch.equal(kept, now) and kept.data_ptr() != now.data_ptr() for kept, now in tensors)
    assert "late.weight" in average.state_dict()
    average.load_state_dict(average.state_dict())
