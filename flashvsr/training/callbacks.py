"""Lightning callbacks of any stage: averaged weights, throughput, a last checkpoint that is always whole."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import deque
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

_OWN = frozenset(vars(nn.Module()))  # attributes of every module: tensors, children and hooks


class WeightAverage(EMAWeightAveraging):
    """Lightning's moving average of the weights, kept on their device and usable from the first step.

    The first ``1 / (1 - decay)`` steps count alike, later ones ``1 - decay`` each: a short run leaves the mean of what
    it went through, and nothing of what it began with. Lightning's own makes its copy before the model moves to a GPU:
    every step then waits until all weights have come to the CPU, frozen ones too.

    Args:
        decay: Of the average per step, at least 0 and below 1.

    Raises:
        ValueError: If `decay` is out of range.
    """

    def __init__(self, decay: float = 0.995) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay is at least 0 and below 1, got {decay}")
        super().__init__(decay=decay)
        self.decay, self.updates = decay, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the copy on the device that the model will be on: of its tensors, and of nothing else that it holds."""
        if stage != "fit":
            return
        pl_module.configure_model()  # layers made there are averaged too
        average = AveragedModel(nn.Module(), use_buffers=self._use_buffers, **self._kwargs)
        average.module = _copy_of_tensors(pl_module)
        self._average_model = average.to(trainer.strategy.root_device)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the average when an optimizer was stepped, without waiting for the device."""
        if trainer.global_step <= self._latest_update_step or self._average_model is None:
            return
        self._latest_update_step = trainer.global_step
        self.updates += 1
        average: Any = self._average_model.module
        parameters = zip(average.parameters(), pl_module.parameters(), strict=True)
        moved: list[tuple[Tensor, Tensor]] = [pair for pair in parameters if pair[1].requires_grad]
        for kept, current in zip(average.buffers(), pl_module.buffers(), strict=True):
            if current.is_floating_point():
                moved.append((kept, current))
            else:
                kept.copy_(current)
        averages, currents = zip(*moved, strict=True)
        torch._foreach_lerp_(averages, currents, max(1 - self.decay, 1 / self.updates))

    def state_dict(self) -> dict[str, Any]:
        """Lightning's, and how often the average was moved."""
        return {**super().state_dict(), "updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        super().load_state_dict(state_dict)
        self.updates = state_dict["updates"]


def _copy_of_tensors(module: nn.Module) -> nn.Module:
    """A copy with parameters, buffers and hooks of its own, which shares all other attributes.

    What a recipe builds holds on to the trainer, by the optimizer that is made later for one: processes, locks and
    files of loggers cannot be copied.
    """
    shared: dict[int, Any] = {}
    for part in module.modules():
        for name, value in vars(part).items():
            if name not in _OWN and not isinstance(value, Tensor | nn.Module):
                shared[id(value)] = value
    return deepcopy(module, shared)


class Throughput(Callback):
    """Log ``train/samples_per_s`` and ``train/frames_per_s``, of all processes, waiting for data included.

    With `peak_tflops` also ``train/mfu``, the utilisation of one device: operations of matrix products, convolutions
    and attention in a step, those of frozen networks too, over what the device could do meanwhile. They are counted in
    the first steps of a run, which are slow, not compiled, and rounded otherwise; a run that goes on does not count
    again. Of kernels in Triton none are seen.

    Args:
        window: Batches over which is averaged.
        peak_tflops: Dense matrix products of a device in the precision of the training, 10^12 operations per second;
            None counts nothing.
        counted: Steps whose operations are counted: as many as it takes until they repeat.

    Raises:
        ValueError: If a number is out of range.

    Reference:
        Model FLOPs utilisation, PaLM, https://arxiv.org/abs/2204.02311, appendix B.
    """

    def __init__(self, window: int = 20, peak_tflops: float | None = None, counted: int = 5) -> None:
        if min(window, counted) < 1 or (peak_tflops is not None and peak_tflops <= 0):
            raise ValueError(
                f"window={window} and counted={counted} are at least 1, peak_tflops={peak_tflops} positive or None"
            )
        self._ends: deque[tuple[float, int, int]] = deque(maxlen=window + 1)
        self.peak_tflops, self.counted = peak_tflops, counted
        self._operations: list[int] = []  # of each counted step
        self._counting = ExitStack()

    def state_dict(self) -> dict[str, Any]:
        """What was counted: a run that goes on counts in the steps in which one that never stopped does."""
        return {"operations": list(self._operations)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        self._operations = list(state_dict["operations"])

    @property
    def operations(self) -> float:
        """Operations of a step, the mean of the counted ones."""
        return sum(self._operations) / max(len(self._operations), 1)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to count the operations of a step."""
        if self.peak_tflops is not None and len(self._operations) < self.counted:
            self._counting.enter_context(torch.compiler.set_stance("force_eager"))
            counter = self._counting.enter_context(FlopCounterMode(display=False))
            self._counting.callback(lambda: self._operations.append(counter.get_total_flops()))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop counting."""
        self._counting.close()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the clips ``hr`` and the images of the batch."""
        self._counting.close()
        samples = frames = 0
        for part in (batch, batch.get("image")):
            if part is not None:
                samples += part["hr"].shape[0]
                frames += part["hr"].shape[0] * part["hr"].shape[2]
        self._ends.append((time.perf_counter(), samples, frames))
        if len(self._ends) == 1:
            return
        seconds = (self._ends[-1][0] - self._ends[0][0]) / trainer.world_size
        for index, name in ((1, "samples"), (2, "frames")):
            done = sum(end[index] for end in list(self._ends)[1:])
            pl_module.log(f"train/{name}_per_s", done / seconds, batch_size=samples)
        if self.peak_tflops is not None:
            rate = self.operations * (len(self._ends) - 1) / (self._ends[-1][0] - self._ends[0][0])
            pl_module.log("train/mfu", rate / (1e12 * self.peak_tflops), batch_size=samples)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the time of a validation out."""
        self._ends.clear()


class LastCheckpoint(ModelCheckpoint):
    """``last.ckpt`` of the step at hand: what ``--ckpt_path last`` goes on from.

    It is written before the first step, every few minutes, at the end of each epoch, and when the run is stopped by
    ``max_steps``, ``max_time``, Ctrl-C or SIGTERM. A signal lets the step end that is being made, on every process,
    also when one of them got it; then the run ends as by Ctrl-C. The second signal ends it at once.

    A checkpoint is written beside the one before, which stays whole until the new one takes its place in one step: a
    run may be killed while it writes. A sharded one is a folder, ``last.ckpt.0`` or ``last.ckpt.1``, and ``last.ckpt``
    a link to it.

    Args:
        dirpath: Folder of the checkpoint.
        minutes: Longest time between two of them while steps are made; at least 0, which writes one after every step.

    Attributes:
        received: Number of the signal that stopped the run; None for none.
        stops: Whether all processes stop after the step at hand.

    Raises:
        ValueError: If `minutes` is negative.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, dirpath: str | Path, minutes: float = 10.0) -> None:
        if minutes < 0:
            raise ValueError(f"minutes is at least 0, got {minutes}")
        super().__init__(dirpath, filename="last", enable_version_counter=False, save_on_train_epoch_end=True)
        self.minutes = minutes
        self.received: int | None = None
        self.stops = False
        self._saved_at = 0.0
        self._replaced: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the first one, and take the signals."""
        super().on_train_start(trainer, pl_module)
        self.received, self.stops = None, False
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
            return
        if not trainer.ckpt_path:
            self._save_now(trainer)
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._replaced = {number: signal.signal(number, self._receive) for number in self.SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is time to, and stop when a signal came: all processes do what one of them wants."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        late = time.monotonic() - self._saved_at >= 60 * self.minutes
        wanted = 2 if self.received else int(late)
        if trainer.world_size > 1:
            told = torch.tensor(wanted, device=trainer.strategy.root_device)
            wanted = int(trainer.strategy.reduce(told, reduce_op="max"))
        if wanted:
            self._save_now(trainer)
        self.stops = wanted == 2

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop when what the step logged is written."""
        if self.stops:
            raise KeyboardInterrupt

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise, instead of a validation that may take minutes."""
        if self.stops:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        super().on_train_end(trainer, pl_module)
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def _receive(self, number: int, frame: Any) -> None:
        self.received = number
        self._give_back()
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: the run stops after this step; once more stops it at once\n".encode())

    def _give_back(self) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, handler)
        self._replaced = {}

    def _save_now(self, trainer: Trainer) -> None:
        self._save_checkpoint(trainer, f"{self.dirpath}/{self.filename}{self.FILE_EXTENSION}")
        self._saved_at = time.monotonic()

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        target = Path(filepath)
        part = _name_beside(target)
        if trainer.is_global_zero:
            _remove(part)  # of a run that was killed
        trainer.save_checkpoint(part)  # and wait for all processes
        if trainer.is_global_zero:
            _put_in_place(part, target)
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, filepath


def _name_beside(target: Path) -> Path:
    """A name that the checkpoint at hand does not have."""
    first, second = Path(f"{target}.0"), Path(f"{target}.1")
    return second if target.is_symlink() and target.readlink().name == first.name else first


def _put_in_place(part: Path, target: Path) -> None:
    """Replace a checkpoint by the one written beside it: by a link if it is a folder, which cannot replace another."""
    earlier = target.resolve() if target.is_symlink() else None
    if target.is_dir() and not target.is_symlink():  # not of this callback
        earlier = target.rename(f"{target}.before")
    new = part
    if part.is_dir():
        new = Path(f"{target}.link")
        _remove(new)
        new.symlink_to(part.name)
    new.replace(target)
    if earlier is not None:
        _remove(earlier)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
