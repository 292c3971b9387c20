"""The Lightning callback that writes a model folder of the trained networks, built as in the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flashvsr.models.class_paths import build, is_reference
from flashvsr.models.folder import COMPONENTS, Component, plain_values, save_model_folder
from flashvsr.models.loading import DTYPES, described_component, find_model
from flashvsr.models.lora import merged_state_dict
from flashvsr.models.sampler import DEFAULT_SHIFT, FlowSchedule
from flashvsr.models.weight_files import build_empty, load_tensors
from flashvsr.training.callbacks import LastCheckpoint

OURS = "flashvsr.models."


class ExportModelFolder(Callback):
    """Write what was trained as a model folder, when training ends by itself, by ``max_time`` or by Ctrl-C.

    Averaged weights are taken if the recipe averages: put this callback after the one that does. Sharded weights are
    gathered and LoRA is merged. Nothing is written in a ``fast_dev_run``, and of sharded weights nothing when one of
    several processes is interrupted without :class:`~flashvsr.training.callbacks.LastCheckpoint`, which stops all.

    Args:
        folder: The folder to make.
        components: Component of the folder (``projection``, ``dit``, ``decoder``, ``vae``) to attribute of the
            LightningModule.
        base: A model folder that the other components and the prompt are copied from; None for none.
        steps: Sampling steps the transformer was trained for; a stream needs 1. Shift and solver of the stage's
            schedule are written beside it.
        dtype: ``"fp32"``, ``"bf16"`` or ``"fp16"``; None keeps that of each tensor.
        color: Colour correction the model wants, ``"adain"``, ``"wavelet"`` or ``"none"``; None is that of `base`, or
            ``"adain"`` without one.
        overwrite: Replace a model that is in the folder; other files in it stay. A run that ``flashvsr fit`` resumes
            may replace its own.
        trust_code: Allow networks of classes outside this library; model.yaml lists them, and whoever loads the folder
            has to trust it, too. ``flashvsr fit --trust-code`` sets it.

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
        trust_code: bool = False,
    ) -> None:
        allowed = tuple(name for name in COMPONENTS if name != "prompt")
        for name in components:
            if name not in allowed:
                raise ValueError(f"components are {', '.join(allowed)}; got {name!r}")
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"dtype is None or one of {', '.join(DTYPES)}; got {dtype!r}")
        self.folder, self.components, self.base = Path(folder), components, base
        self.steps, self.dtype, self.color, self.overwrite = steps, dtype, color, overwrite
        self.trust_code = trust_code
        self.recipe: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Find out before the training whether the folder can be written after it.

        Raises:
            FileExistsError: If the folder exists and may not be replaced.
            NotADirectoryError: If it is a file.
            FileNotFoundError: If `base` is not there.
            ValueError: If `recipe` does not say how a component is built, or a model folder may not hold it.
        """
        if self.folder.exists() and not self.overwrite:
            raise FileExistsError(
                f"{self.folder} exists: choose another folder for ExportModelFolder, or give it overwrite: true"
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder} is a file: choose another folder for ExportModelFolder")
        if self.base is not None:
            find_model(self.base)
        for attribute in self.components.values():
            part = (self.recipe or {}).get(attribute)
            if not (isinstance(part, Mapping) and "class_path" in part):
                raise ValueError(
                    f"ExportModelFolder does not know how {attribute!r} is built: the recipe has no class_path for it "
                    "(without `flashvsr fit`, set its attribute `recipe`)"
                )
            try:
                check_component(part, trust_code=self.trust_code)
            except ValueError as error:
                raise ValueError(f"{self.folder} could not hold the trained {attribute}: {error}") from error

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check everything while nothing is lost yet."""
        if stage != "fit" or _is_trial(trainer):
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, WeightAveraging) for callback in callbacks[callbacks.index(self) :]):
            raise ValueError("ExportModelFolder stands before the callback that averages weights: put it after that")
        schedule = getattr(pl_module, "schedule", None)
        if self.steps > 1 and schedule is not None and not isinstance(schedule, FlowSchedule):
            raise ValueError(
                f"a model folder of {self.steps} steps stores the shift of a FlowSchedule, got a schedule of the class "
                f"{type(schedule).__name__}"
            )
        self.check()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the folder."""
        if not _is_trial(trainer):
            self._export(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the folder when the user stops a run that has made at least one step."""
        if not isinstance(exception, KeyboardInterrupt) or trainer.global_step == 0 or _is_trial(trainer):
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        together = trainer.world_size == 1 or any(isinstance(c, LastCheckpoint) and c.stops for c in callbacks)
        if not together and any(isinstance(parameter, DTensor) for parameter in pl_module.parameters()):
            rank_zero_warn(f"{self.folder} was not written: one process alone cannot gather sharded weights")
            return
        averaging = [callback for callback in callbacks if isinstance(callback, WeightAveraging)]
        for callback in averaging:
            callback.on_validation_epoch_start(trainer, pl_module)  # the averaged weights, as validation has them
        self._export(trainer, pl_module, wait=together)
        for callback in averaging:
            callback.on_validation_epoch_end(trainer, pl_module)

    def _export(self, trainer: Trainer, pl_module: LightningModule, *, wait: bool = True) -> None:
        recipe = self.recipe or {}
        whole = {
            name: gather_tensors(getattr(pl_module, attribute), keep=trainer.is_global_zero)
            for name, attribute in self.components.items()
        }
        if trainer.is_global_zero:
            made: dict[str, Component] = {}
            prompt, color, shift, solver = None, "adain", DEFAULT_SHIFT, "euler"
            if self.base is not None:
                base = find_model(self.base)
                made, prompt, color = dict(base.components), base.prompt, base.color
                shift, solver = base.shift, base.solver
            if isinstance(schedule := getattr(pl_module, "schedule", None), FlowSchedule):
                shift, solver = schedule.shift, schedule.solver
            for name, attribute in self.components.items():
                plain = merged_state_dict(getattr(pl_module, attribute), whole[name])
                made[name] = trained_component(
                    recipe[attribute], plain, f"the trained {attribute}", trust_code=self.trust_code
                )
            dtype = None if self.dtype is None else DTYPES[self.dtype]
            options: dict[str, Any] = {"shift": shift, "solver": solver, "color": self.color or color, "dtype": dtype}
            save_model_folder(self.folder, made, prompt=prompt, steps=self.steps, overwrite=self.overwrite, **options)
            rank_zero_info(f"{self.folder} holds {', '.join(made)}")
        if wait:  # the others would go on and end, and a launcher then ends this process while it writes
            trainer.strategy.barrier("ExportModelFolder")


def _is_trial(trainer: Any) -> bool:
    return bool(trainer.fast_dev_run)


def gather_tensors(module: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
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


def check_component(part: Mapping[str, Any], *, trust_code: bool = False) -> None:
    """Find out, before anything is trained, whether :func:`trained_component` can describe a network.

    Args:
        part: What the recipe says of it.
        trust_code: Allow classes outside this library.

    Raises:
        ValueError: If a model folder may not hold it, or an argument of it cannot be written there.
    """
    class_path, init_args = plain_part(part)
    build_empty(lambda: build(class_path, init_args, trust_code=trust_code))
    try:
        yaml.safe_dump(plain_values(init_args))
    except yaml.YAMLError as error:
        raise ValueError(f"{class_path}: an argument is nothing that a model folder can hold: {error}") from error


def trained_component(
    part: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str, *, trust_code: bool = False
) -> Component:
    """The component of a network that a recipe made and a stage trained.

    Args:
        part: What the recipe says of it, ``{"class_path": ..., "init_args": ...}``: a class or builder that a model
            folder may name, or one of ``component``, ``load_wan_base`` and ``with_lora`` of ``flashvsr.models``.
        tensors: Its trained parameters and buffers, whole, without adapters.
        source: What errors call them.
        trust_code: Allow classes outside this library.

    Returns:
        The component, built anew with those weights: what is written can be read.

    Raises:
        ValueError: If a model folder may not hold it, or the tensors do not fit.
    """
    class_path, init_args = plain_part(part)
    module = build_empty(lambda: build(class_path, init_args, trust_code=trust_code))
    return Component(class_path, init_args, load_tensors(module, tensors, source))


def plain_part(part: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Class path and arguments of the network itself, without what loads or wraps it."""
    class_path, init_args = part["class_path"], part.get("init_args") or {}
    name = class_path.removeprefix(OURS) if class_path.startswith(OURS) else ""
    match name.rpartition(".")[2]:
        case "component":
            described = described_component(init_args["folder"], init_args["name"], init_args.get("overrides"))
            return described.class_path, described.init_args
        case "load_wan_base":
            return f"{OURS}video_dit_1b", {key: init_args[key] for key in ("attention",) if key in init_args}
        case "with_lora":
            return plain_part(next(value for value in init_args.values() if is_reference(value)))
    return class_path, init_args
