"""A stage small enough to be trained in a test, and its data."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from flashvsr.data.tar_samples import ShardError


class ToyStage(LightningModule):
    """A decoder learns to give back noise; two optimizers by hand if so asked."""

    def __init__(
        self,
        decoder: nn.Module,
        optimizer: Callable[[Iterable], Optimizer],
        *,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        manual: bool = False,
        stop_at: int | None = None,
        kill_at: int | None = None,
        kill_with: str = "SIGKILL",
    ) -> None:
        super().__init__()
        self.decoder, self.optimizer, self.scheduler = decoder, optimizer, scheduler
        self.other = nn.Linear(2, 2)
        self.automatic_optimization = not manual
        self.stop_at, self.kill_at, self.kill_with = stop_at, kill_at, signal.Signals[kill_with]

    def training_step(self, batch, batch_idx):
        if self.stop_at is not None and self.global_step >= self.stop_at:
            raise KeyboardInterrupt
        if self.kill_at is not None and self.global_step == self.kill_at:
            os.kill(os.getpid(), self.kill_with)
        frames, _ = self.decoder(batch["latents"], None, None)
        loss = (frames - batch["hr"]).square().mean()
        self.log("train/loss", loss.detach(), batch_size=1)
        if self.automatic_optimization:
            return loss
        for optimizer, part in zip(self.optimizers(), (loss, self.other(torch.ones(2)).square().sum()), strict=True):
            optimizer.zero_grad()
            self.manual_backward(part)
            optimizer.step()
        return None

    def validation_step(self, batch, batch_idx):
        self.log("val/first", next(self.decoder.parameters()).detach().flatten()[0], batch_size=1)

    def configure_optimizers(self):
        if not self.automatic_optimization:
            return self.optimizer(self.decoder.parameters()), self.optimizer(self.other.parameters())
        optimizer = self.optimizer(self.decoder.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}


class ToyData(LightningDataModule):
    """`epoch_batches` batches, the same in every epoch; `broken` at "setup", at a "batch", or for its "shards"."""

    def __init__(self, epoch_batches: int = 3, broken: str | None = None) -> None:
        super().__init__()
        self.epoch_batches, self.broken, self.taken = epoch_batches, broken, 0

    def setup(self, stage):
        if self.broken == "setup":
            raise ValueError("no such data")

    def train_dataloader(self):
        return ToyLoader(self)

    def val_dataloader(self):
        return DataLoader([self._sample(0)])

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.broken == "batch":
            raise ValueError("no such data")
        if self.broken == "shards":
            raise ShardError("cannot read https://host/a.tar: 403\ncheck the address")
        self.taken += self.trainer.training
        return batch

    def state_dict(self):
        return {"taken": self.taken}

    def load_state_dict(self, state_dict):
        self.taken = state_dict["taken"]

    def _sample(self, index):
        generator = torch.Generator().manual_seed(index)
        size = {"latents": (16, 2, 2, 2), "hr": (3, 5, 16, 16)}
        return {name: torch.randn(shape, generator=generator) for name, shape in size.items()}


class ToyLoader:
    """The batches from the one that comes next on."""

    def __init__(self, data: ToyData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.epoch_batches

    def __iter__(self):
        first = self.data.taken
        return iter(DataLoader([self.data._sample((first + n) % len(self)) for n in range(len(self))]))
