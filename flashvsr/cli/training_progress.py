"""How a training shows where it is: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from flashvsr.upscale.progress import duration

LINE_EVERY = 10.0
"""Seconds between two lines of a log."""
BAR_EVERY = 0.5
"""Seconds between two looks at the losses, each of which waits for the GPU."""
WINDOW = 50
"""Batches over which the speed is averaged."""
LEFT_OUT = ("grad_norm", "per_s")
"""Parts of names of logged values that are no losses."""


class TrainingProgress(ProgressBar):
    """Optimizer steps done and in all, losses, clips per second and the time left, on stderr.

    Steps are those that ``max_steps`` counts: of all optimizers. The time left is that until ``max_steps``,
    ``max_epochs`` or ``max_time``, whichever comes first.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: Progress | None = None
        self._ends: deque[tuple[float, int, int]] = deque(maxlen=WINDOW + 1)
        self._clips, self._shown, self._shown_step = 0, 0.0, -1

    def enable(self) -> None:
        """Show it."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing: Lightning asks for it on all processes but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and the bar on a terminal."""
        self._shown = time.monotonic()
        self._ends.append((self._shown, trainer.global_step, 0))
        if self._enabled and sys.stderr.isatty():
            self._bar = Progress(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True))
            self._bar.add_task("", total=steps_in_all(trainer))
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch, and say where the run is unless that was said a moment ago."""
        self._clips += batch["hr"].shape[0] * trainer.world_size if isinstance(batch, Mapping) and "hr" in batch else 0
        now = time.monotonic()
        self._ends.append((now, trainer.global_step, self._clips))
        if self._enabled and now - self._shown >= (BAR_EVERY if self._bar else LINE_EVERY):
            self._shown = now
            self._show(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say so: it takes a while."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=f"{self._steps(trainer)}, validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the time of a validation out of the speed."""
        self._ends.clear()
        self._ends.append((time.monotonic(), trainer.global_step, self._clips))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the last of it, and take the bar down."""
        if self._enabled and self._shown_step < trainer.global_step:
            self._show(trainer)
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Take the bar down."""
        self._stop()

    def _show(self, trainer: Trainer) -> None:
        self._shown_step = trainer.global_step
        parts = [self._steps(trainer), *losses(trainer)]
        (begin, first_step, first_clips), (end, step, clips) = self._ends[0], self._ends[-1]
        if end > begin:
            if clips > first_clips:
                parts.append(f"{(clips - first_clips) / (end - begin):.3g} clips/s")
            left = time_left(trainer, (step - first_step) / (end - begin))
            parts += [f"about {duration(left)} left"] if left is not None else []
        text = ", ".join(parts)
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, description=text)

    def _steps(self, trainer: Trainer) -> str:
        total = steps_in_all(trainer)
        return f"step {trainer.global_step}" + (f"/{total}" if total else "")

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def steps_in_all(trainer: Trainer) -> int | None:
    """Optimizer steps that a run may take; None where only time ends it."""
    limits = [trainer.max_steps] if trainer.max_steps > 0 else []
    batches = trainer.num_training_batches
    countable = trainer.lightning_module.automatic_optimization and math.isfinite(batches)  # else a batch has any steps
    if trainer.max_epochs is not None and trainer.max_epochs > 0 and countable:
        limits.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
    return min(limits, default=None)


def time_left(trainer: Trainer, rate: float) -> float | None:
    """Seconds until the run ends at so many optimizer steps a second; None if that cannot be told."""
    total = steps_in_all(trainer)
    left = [(total - trainer.global_step) / rate] if total is not None and rate > 0 else []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        if isinstance(callback, Timer) and (remaining := callback.time_remaining()) is not None:
            left.append(remaining)
    return max(min(left), 0.0) if left else None


def losses(trainer: Trainer) -> list[str]:
    """Losses of the last step that logged any, with their names."""
    shown = []
    for name, value in trainer.callback_metrics.items():
        stage, _, kind = name.partition("/")
        if stage == "train" and not any(part in kind for part in LEFT_OUT):
            shown.append(f"{kind.replace('/', ' ')} {float(value):.4g}")
    return shown
