"""What would fail, or mix with another run, only after minutes of loading or hours of training; found before."""

from __future__ import annotations

import inspect
import json
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flashvsr.cli.recipe_diff import changes
from flashvsr.cli.recipe_errors import shorten
from flashvsr.cli.recipes import made_by
from flashvsr.data.lit import ShardDataModule
from flashvsr.decoders.lit import AutoencoderStage, DecoderStage
from flashvsr.distill.lit_one_step import OneStepStage
from flashvsr.models.class_paths import check_allowed
from flashvsr.models.folder import Component
from flashvsr.models.lit import ExportModelFolder
from flashvsr.models.loading import described_component, find_model

COMPONENT = ("flashvsr.models.component", "flashvsr.models.loading.component")
"""Class paths of a network that comes from a model folder."""


class Started(Callback):
    """Knows whether the trainer has come as far as its first batch: an error before that is one of the recipe.

    Attributes:
        yes: Whether it has.
    """

    yes = False

    def on_sanity_check_start(self, *unused: Any) -> None:
        """Validation before the training."""
        self.yes = True

    def on_validation_start(self, *unused: Any) -> None:
        """Only validate."""
        self.yes = True

    def on_train_start(self, *unused: Any) -> None:
        """Training."""
        self.yes = True


class SameRecipe(Callback):
    """Keeps in every checkpoint what of a recipe decides the batches, and refuses to go on with something else.

    Where shards lie, how they are loaded and what is validated may change.

    Args:
        data: What the recipe says of the data module, as plain mappings; None without one.
        precision: Of the trainer.
    """

    def __init__(self, data: Mapping[str, Any] | None, precision: Any) -> None:
        decides = json.loads(json.dumps(data, default=str)) or {}  # values that a checkpoint may hold
        for name in ("train", "val", "validation", "loader"):
            (decides.get("init_args") or {}).pop(name, None)
        self._decides = {"data": decides, "trainer": {"precision": str(precision)}}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep it."""
        checkpoint["recipe"] = self._decides

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare.

        Raises:
            ValueError: If a training goes on with other values.
        """
        different = list(changes(checkpoint.get("recipe", self._decides), self._decides))
        if different and trainer.training:
            raise ValueError(
                f"the run to resume had other values ({'; '.join(different)}): set them back, or start a new run"
            )


def try_optimizers(recipe: Mapping[str, Any]) -> None:
    """Make every optimizer and schedule of a recipe once, for a parameter of its own; stages make theirs late.

    Args:
        recipe: What the recipe says of the model, with ``class_path`` and ``init_args`` anywhere in it.

    Raises:
        ValueError: If one refuses its arguments.
    """
    parameter = torch.nn.Parameter(torch.zeros(1))
    for key, class_path, init_args in _parts(recipe, "model"):
        module, _, name = class_path.rpartition(".")
        made = getattr(import_module(module), name)
        try:
            if inspect.isclass(made) and issubclass(made, Optimizer):
                made([parameter], **init_args)
            elif inspect.isclass(made) and issubclass(made, LRScheduler):
                made(SGD([parameter], lr=1.0, momentum=0.9), **init_args)
        except ValueError as error:
            raise ValueError(f"{key}: {class_path}: {error}") from error


def _parts(said: Any, key: str) -> Iterator[tuple[str, str, Any]]:
    """Everything with a class path, under its key."""
    if isinstance(said, Namespace):
        said = vars(said)
    if isinstance(said, Mapping):
        if isinstance(said.get("class_path"), str):
            yield key.removesuffix(".init_args"), said["class_path"], said.get("init_args") or {}
        for name, value in said.items():
            yield from _parts(value, key if name == "init_args" else f"{key}.{name}")
    elif isinstance(said, list | tuple):
        for index, value in enumerate(said):
            yield from _parts(value, f"{key}.{index}")


def prepare_components(model: Namespace, trust_code: bool) -> None:
    """Hand trust to the networks that come from model folders, and check what a recipe changes of them.

    Args:
        model: What the recipe says of the model, parsed; changed in place.
        trust_code: Whether the recipe is trusted.

    Raises:
        FileNotFoundError: If a folder is not there.
        ValueError: If an override is unknown or of the wrong type.
    """
    for key, class_path, init_args in _parts(model, "model"):
        if class_path not in COMPONENT:
            continue
        init_args["trust_code"] = init_args.get("trust_code") or trust_code
        try:
            find_model(init_args["folder"])
        except FileNotFoundError as error:
            command = made_by(str(init_args["folder"]))
            hint = f"\n`{command}` makes it" if command else ""
            raise FileNotFoundError(f"{key}: {error}{hint}") from error
        if init_args.get("overrides"):
            described = described_component(init_args["folder"], init_args["name"], init_args["overrides"])
            _check_types(f"{key}.overrides", described, init_args["trust_code"])


def _check_types(key: str, described: Component, trust_code: bool) -> None:
    """Check the arguments of a network as those of a recipe are checked."""
    try:
        check_allowed(described.class_path, described.init_args, trust_code=trust_code)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "part", fail_untyped=False)
    try:
        parser.parse_object({"part": {"class_path": described.class_path, "init_args": dict(described.init_args)}})
    except ArgumentError as error:
        message = shorten(str(error))
        raise ValueError(f"{key}{message.removeprefix('part')}" if message.startswith("part") else message) from error


def check_clips(model: LightningModule, data: Namespace | None) -> None:
    """Check the size of clips against what a stage takes.

    Args:
        model: A stage; one without a transformer or decoder of ours takes anything.
        data: What the recipe says of the data.

    Raises:
        ValueError: If a size does not fit.
    """
    if data is None or data.class_path != "flashvsr.data.lit.ShardDataModule":
        return
    order = getattr(getattr(model, "dit", None), "order", None)
    if order is None and not isinstance(model, AutoencoderStage | DecoderStage):
        return
    frames, pixels = {"block": (8, 128), "raster": (4, 16)}.get(order or "", (4, 8))
    stage, said = type(model).__name__, data.init_args
    number = said.frames
    if number < frames + 1 or number % frames != 1:
        works = sorted({max(number - 1, frames) // frames * frames + 1, (number - 1) // frames * frames + frames + 1})
        raise ValueError(f"data.frames is {number}: {stage} takes {frames}n+1 frames; {_either(works)} would do")
    crops = {"crop": said.crop, "validation.crop": said.validation.crop}
    if order == "raster" and said.photos.images_per_batch:
        crops["photos.image_crop"] = said.photos.image_crop
    for key, crop in crops.items():
        for side in (crop,) if isinstance(crop, int) else crop or ():
            if side < pixels or side % pixels:
                works = sorted({max(side // pixels, 1) * pixels, (side // pixels + 1) * pixels})
                raise ValueError(
                    f"data.{key} is {crop}: {stage} takes multiples of {pixels} pixels; {_either(works)} would do"
                )


def _either(values: list[int]) -> str:
    return " or ".join(map(str, values))


def check_run(trainer: Trainer, model: LightningModule, ckpt_path: str | None) -> None:
    """Check what a run will find and leave in its folders.

    Args:
        trainer: With its callbacks and logger.
        model: What is trained.
        ckpt_path: Checkpoint to go on from; None for a new run.

    Raises:
        FileExistsError: If a new run would mix with another one.
        FileNotFoundError: If the last checkpoint is wanted and there is none.
        ValueError: If the export could not be made, weights that are sharded would be averaged, or DDP does not look
            for the unused parameters that a stage has.
    """
    sharded = isinstance(trainer.strategy, ModelParallelStrategy)
    in_turn = isinstance(model, OneStepStage) and isinstance(trainer.strategy, DDPStrategy)
    strategy: Any = trainer.strategy  # only DDP's has the options that PyTorch is given
    if in_turn and not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise ValueError(
            "OneStepStage trains the generator and the fake score in turn: with DDP use --trainer.strategy "
            "ddp_find_unused_parameters_true"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        if isinstance(callback, WeightAveraging) and sharded:
            raise ValueError(
                f"{type(callback).__name__} cannot average the sharded weights of ModelParallelStrategy: leave it out, "
                "or train with the strategy ddp"
            )
        if isinstance(callback, ExportModelFolder):
            callback.setup(trainer, model, "fit")
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            there = sorted(Path(callback.dirpath).glob("*.ckpt"))
            if there and ckpt_path is None:
                raise FileExistsError(
                    f"{callback.dirpath} holds checkpoints of another run: go on with it (--ckpt_path last), move it "
                    "away, or choose another dirpath"
                )
            if ckpt_path == "last" and not any(file.name.startswith("last") for file in there):
                raise FileNotFoundError(f"--ckpt_path last: there is no last.ckpt in {callback.dirpath}")
    saved = Path(trainer.log_dir or ".") / "config.yaml"
    if ckpt_path is None and saved.is_file():
        raise FileExistsError(f"{saved} is that of another run: go on with it (--ckpt_path last) or log elsewhere")


def check_samples(trainer: Trainer, data: LightningDataModule | None) -> None:
    """Open the shards of a recipe, and check that they hold what it asks for; the training then has them open.

    Args:
        trainer: Of the run.
        data: What gives the batches; other data than shards are left to the training.

    Raises:
        ShardError: If shards cannot be read, or lack videos or photographs that are asked for.
        ValueError: If an option does not work with shards.
    """
    if isinstance(data, ShardDataModule):
        data.trainer = trainer
        data.setup("fit")


def check_checkpoint(path: Path) -> None:
    """Refuse a file that is no whole checkpoint of a training, before anything is built.

    Raises:
        ValueError: If it cannot be read, or holds something else.
    """
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(f"--ckpt_path: {path} is damaged or no checkpoint") from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(f"--ckpt_path: {path} is no checkpoint of a training: it holds no state_dict")
