"""Lightning callbacks around models: the folder a stage leaves, averaged weights, throughput, whole checkpoints."""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flashvsr.models.checkpoints import DTYPES, find_model
from flashvsr.models.export import trained_component
from flashvsr.models.lora import merged_state_dict
from flashvsr.models.model_folder import Component, save_model_folder


class ExportModelFolder(Callback):
    """Write what was trained as a model folder, when training ends by itself, by ``max_time`` or by Ctrl-C.

    Averaged weights are taken if the recipe averages: put this callback after the one that does. Sharded weights are
    gathered and LoRA is merged. Nothing is written in a ``fast_dev_run``.

    Args:
        folder: The folder to make.
        components: Component of the folder (``projection``, ``dit``, ``decoder``, ``vae``) to attribute of the
            LightningModule.
        base: A model folder that the other components and the prompt are copied from; None for none.
        steps: Sampling steps the transformer was trained for; a stream needs 1.
        dtype: ``"fp32"``, ``"bf16"`` or ``"fp16"``; None keeps that of each tensor.
        color: Colour correction the model wants, ``"adain"``, ``"wavelet"`` or ``"none"``; None is that of `base`, or
            ``"adain"`` without one.
        overwrite: Replace a folder that exists. A run that ``flashvsr fit`` resumes may replace its own.

    Attributes:
        recipe: How each attribute is built, by name: ``{"class_path": ..., "init_args": ...}``. ``flashvsr fit`` takes
            it from the recipe; set it when training is started otherwise.

    Raises:
        ValueError: If an argument is not one of its choices.
    """

    def __init__(
        self,
        folder: str | Path,
        components: dict[str, str],
        *,
        base: str | Path | None = None,
        steps: int = 1,
        dtype: str | None = None,
        color: str | None = None,
        overwrite: bool = False,
    ) -> None:
        allowed = ("projection", "dit", "decoder", "vae")
        for name in components:
            if name not in allowed:
                raise ValueError(f"components are {', '.join(allowed)}; got {name!r}")
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype is None or one of {', '.join(DTYPES)}; got {dtype!r}")
        self.folder, self.components, self.base = Path(folder), components, base
        self.steps, self.dtype, self.color, self.overwrite = steps, dtype, color, overwrite
        self.recipe: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Find out before the training whether the folder can be written after it.

        Raises:
            FileExistsError: If the folder exists and may not be replaced.
            FileNotFoundError: If `base` is not there.
            ValueError: If `recipe` does not say how a component is built.
        """
        if self.folder.exists() and not self.overwrite:
            raise FileExistsError(
                f"{self.folder} exists: choose another folder for ExportModelFolder, or give it overwrite: true"
            )
        if self.base is not None:
            find_model(self.base)
        for attribute in self.components.values():
            part = (self.recipe or {}).get(attribute)
            if not (isinstance(part, Mapping) and "class_path" in part):
                raise ValueError(
                    f"ExportModelFolder does not know how {attribute!r} is built: the recipe has no class_path for it "
                    "(without `flashvsr fit`, set its attribute `recipe`)"
                )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check everything while nothing is lost yet."""
        if stage != "fit" or _trial(trainer):
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, WeightAveraging) for callback in callbacks[callbacks.index(self) :]):
            raise ValueError("ExportModelFolder stands before the callback that averages weights: put it after that")
        self.check()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder."""
        if not _trial(trainer):
            self._export(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the folder when the user stops a run that has made at least one step."""
        if not isinstance(exception, KeyboardInterrupt) or trainer.global_step == 0 or _trial(trainer):
            return
        averaging = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
        for callback in averaging:
            callback.on_validation_epoch_start(trainer, pl_module)  # the averaged weights, as validation has them
        self._export(trainer, pl_module)
        for callback in averaging:
            callback.on_validation_epoch_end(trainer, pl_module)

    def _export(self, trainer: Trainer, pl_module: LightningModule) -> None:
        recipe = self.recipe or {}
        whole = {
            name: whole_tensors(getattr(pl_module, attribute), keep=trainer.is_global_zero)
            for name, attribute in self.components.items()
        }
        if trainer.is_global_zero:
            made: dict[str, Component] = {}
            prompt, color = None, "adain"
            if self.base is not None:
                base = find_model(self.base)
                made, prompt, color = dict(base.components), base.prompt, base.color
            for name, attribute in self.components.items():
                plain = merged_state_dict(getattr(pl_module, attribute), whole[name])
                made[name] = trained_component(recipe[attribute], plain, f"the trained {attribute}")
            dtype = None if self.dtype is None else DTYPES[self.dtype]
            options: dict[str, Any] = {"steps": self.steps, "color": self.color or color, "dtype": dtype}
            save_model_folder(self.folder, made, prompt=prompt, overwrite=self.overwrite, **options)
            rank_zero_info(f"{self.folder} holds {', '.join(made)}")
        trainer.strategy.barrier("ExportModelFolder")


def _trial(trainer: Any) -> bool:
    return bool(trainer.fast_dev_run)


def whole_tensors(module: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """Parameters and buffers of a module on the CPU, gathered where they are sharded.

    Args:
        module: Every process has to pass its own.
        keep: Whether this process wants them; False returns nothing.

    Returns:
        Copies by name.
    """
    whole = {}
    for name, tensor in module.state_dict().items():
        gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if keep:
            whole[name] = gathered.detach().to("cpu", copy=True)
    return whole


class WeightAverage(EMAWeightAveraging):
    """Lightning's moving average of the weights, kept on their device and of use from the first step.

    The first ``1 / (1 - decay)`` steps count alike, later ones ``1 - decay`` each: a short run leaves the mean of what
    it went through, and nothing of what it began with. Lightning's own makes its copy before the model moves to a GPU:
    every step then waits until all weights have come to the CPU, those that nobody trains too.

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
        """Make the copy on the device that the model will be on."""
        self._device = trainer.strategy.root_device
        with warnings.catch_warnings():  # of sharded weights, which `flashvsr fit` refuses
            warnings.filterwarnings("ignore", "You're using the WeightAveraging callback with a model that overrides")
            super().setup(trainer, pl_module, stage)

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


class Throughput(Callback):
    """Log ``train/samples_per_s`` and ``train/frames_per_s``, of all processes, waiting for data included.

    Args:
        window: Batches over which is averaged.

    Raises:
        ValueError: If `window` is below 1.
    """

    def __init__(self, window: int = 20) -> None:
        if window < 1:
            raise ValueError(f"window is at least 1, got {window}")
        self._ends: deque[tuple[float, int, int]] = deque(maxlen=window + 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the clips ``hr`` and the images of the batch."""
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

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the time of a validation out."""
        self._ends.clear()


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear whole or not at all, also when a run is killed while it writes one.

    In a recipe: ``trainer.plugins: [flashvsr.models.lit.AtomicCheckpointIO]``. Lightning's own writes to the folder for
    temporary files first, which may lie on another disk, and then copies.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside the target, then rename."""
        part = f"{path}.part"
        super().save_checkpoint(checkpoint, part, storage_options)
        os.replace(part, path)  # noqa: PTH105 - as strings, which Lightning passes
