"""Training and validation batches from WebDataset shards, for Lightning."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from flashvsr.data.batches import BatchLoader, FixedPlans, SingleClipPlans, plan_loader, to_float, upsample
from flashvsr.data.echo import EchoBuffer, EchoLoader, EchoStart
from flashvsr.data.memory import ClipMaker, FootageInMemory, load_footage
from flashvsr.data.samples import ClipDataset, DrawnNumbers
from flashvsr.data.sampling import EpochPlan, validation_plans
from flashvsr.data.settings import EpochOptions, LoaderOptions, PhotoOptions, ValidationOptions, rows_and_columns
from flashvsr.data.shards import ShardIndex, UsableSamples, usable
from flashvsr.data.tar_samples import ShardError

_WORKER_DEGRADES = "exactly one of degradation (in the workers) and device_degradation (on the device) is needed"


class ShardDataModule(L.LightningDataModule):
    """Clips from shards of videos and photographs, degraded, in batches that do not depend on how many processes run.

    A batch is ``{"hr": [B,3,T,H,W], "lr": the same (upsampled x4 from [H/4,W/4], bicubic, rounded to 8 bit),
    "seed": [B] int64}``, floats in [-1, 1]; with ``images_per_batch`` the same again under ``"image"``, T = 1. Frames
    travel from the workers as uint8. Videos shorter than ``frames`` are reflected in time; photographs become
    clips by camera motion.

    Rank r of w takes the global positions ``b*w*B + r + w*i`` of an epoch, and a sample is a function of (seed,
    epoch, global position) alone: see `EpochPlan`. Shards are indexed, so there may be fewer than ranks or workers.
    State holds the position in the run: after a resume the next batch is the one that would have come.

    A LightningModule with a method ``prepare`` is given every batch once, however often its clips are drawn, and its
    images likewise; the entries `[B, ...]` that it returns come along: what is always the same, such as latents.

    Args:
        train: Shards: path, folder, glob, brace pattern, URL, or a list of them; see `ShardIndex`.
        val: Shards for validation; None for none. Centre crops, fixed seeds, every sample once.
        batch_size: Clips per process.
        frames: Frames of a clip, 8n+1 for the stages.
        crop: Side, or rows and columns, of clips; multiples of 8.
        degradation: `[T,3,H,W]` uint8 and a seed to `[T,3,H/4,W/4]` uint8, run in the workers.
        device_degradation: `[B,3,T,H,W]` uint8 and seeds `[B]` to `[B,3,T,H/4,W/4]` uint8, run on the device.
        epoch: Length of an epoch, and how often each batch is used.
        photos: Clips and images from photographs.
        validation: Batch size, crop and degradation of the validation.
        loader: Worker processes and what they keep.
        seed: Of the run.

    Attributes:
        broken: How often each broken sample was met; also logged as ``data/broken``.

    Raises:
        ValueError: For sizes that cannot be, and unless exactly one degradation is given.
        ShardError: On setup, when shards are missing or hold no sample that can be used.
    """

    def __init__(
        self,
        train: str | list[str],
        val: str | list[str] | None = None,
        batch_size: int = 1,
        frames: int = 33,
        crop: int | tuple[int, int] = 384,
        degradation: Callable[..., Any] | None = None,
        device_degradation: Callable[..., Any] | None = None,
        epoch: EpochOptions = EpochOptions(),
        photos: PhotoOptions = PhotoOptions(),
        validation: ValidationOptions = ValidationOptions(),
        loader: LoaderOptions = LoaderOptions(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (degradation is None) == (device_degradation is None):
            raise ValueError(f"{_WORKER_DEGRADES}, not {'none' if degradation is None else 'both'}")
        if loader.memory is not None and device_degradation is None:
            raise ValueError("loader.memory makes clips on the device: give device_degradation, not degradation")
        if min(batch_size, frames) < 1:
            raise ValueError(f"batch_size={batch_size}, frames={frames}: both count from 1")
        self._train, self._val = train, val
        self._batch_size, self._frames, self._seed = batch_size, frames, seed
        self._crop = rows_and_columns("crop", crop)
        self._image_crop = rows_and_columns("image_crop", photos.image_crop or crop)
        self._val_crop = rows_and_columns("crop", validation.crop or crop)
        self._degradation, self._device_degradation = degradation, device_degradation
        self._epoch, self._photos, self._validation, self._loader_options = epoch, photos, validation, loader
        self._start, self._echoed = (0, 0), 0  # (epoch, batch) that comes next, steps taken of it
        self._buffer = EchoBuffer(epoch.pool, seed, epoch.turn)
        self._footage: FootageInMemory | None = None
        self._folder: TemporaryDirectory[str] | None = None  # of the footage, where processes share it
        self._found: dict[str, UsableSamples] = {}
        self.broken: Counter[str] = Counter()

    def setup(self, stage: str | None = None) -> None:
        """Index the shards that the stage needs; says what cannot be used."""
        trainer: Any = self.trainer
        if stage == "fit" and trainer is not None and trainer.overfit_batches:
            raise ValueError(
                "overfit_batches does not work with shards, which give new clips in every epoch: train on shards of few"
                " clips"
            )
        if stage in (None, "fit") and "train" not in self._found:
            both = zip(self._crop, self._image_crop if self._photos.images_per_batch else self._crop, strict=True)
            rows, columns = map(max, both)
            found = self._open(self._train, (rows, columns))
            found.photo_fraction(self._photos)  # or refuses
            self._found["train"] = found
        if self._val is not None and "val" not in self._found:
            self._found["val"] = self._open(self._val, self._val_crop)

    def train_dataloader(self) -> BatchLoader | EchoLoader:
        """Batches of this process, from the position of the state on."""
        found = self._split("train")
        rank, world = self._place()
        plan = EpochPlan(
            (len(found.videos), len(found.photos)),
            batch_size=self._batch_size,
            images=self._photos.images_per_batch,
            batches=self._epoch.batches,
            photo_fraction=found.photo_fraction(self._photos),
            seed=self._seed,
            rank=rank,
            world=world,
            span=lambda: self._pass().span(self._epoch.batches),
            order=found.order(self._epoch.shards_at_once),
        )
        loader = BatchLoader(self._train_loader(found, SingleClipPlans(plan)), self._batch_size)
        repeats = self._epoch.echo > 1 or self._epoch.pool > 1 or self._epoch.turn
        return EchoLoader(loader, self._epoch.echo, self._pass) if repeats else loader

    def val_dataloader(self) -> DataLoader | list[Any]:
        """Every validation sample once; an empty list without validation shards."""
        if self._val is None:
            return []
        found = self._split("val")
        counts = len(found.videos), len(found.photos)
        plans = FixedPlans(validation_plans(counts, self._validation.batch_size, *self._place()))
        degradation = self._validation.degradation or self._degradation
        dataset = self._dataset(found, degradation, crop=self._val_crop, augment=False)
        return plan_loader(dataset, plans, self._loader_options)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Degrade on the device if so asked, and make the floats that the stages take."""
        position, broken = batch.pop("position"), batch.pop("broken")
        self._note(broken)
        if self.trainer is not None and not self.trainer.training:
            return self._finish(self._degraded(batch))
        for made in (*batch.pop("before", ()), batch):
            if "seed" in made:
                self._buffer.add(self._prepared(self._degraded(made)))
        drawn = self._finish(self._buffer.draw(position, self._echoed))
        self._echoed = (self._echoed + 1) % self._epoch.echo
        if not self._echoed:
            epoch, number = position
            self._start = (epoch, number + 1) if number + 1 < self._epoch.batches else (epoch + 1, 0)
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """Epoch and number of the batch that comes next, and what must be equal for it to be the same."""
        return {
            "next": self._start,
            "echoed": self._echoed,
            "seed": self._seed,
            "epoch_batches": self._epoch.batches,
            "echo": self._epoch.echo,
            "pool": self._epoch.pool,
            "turn": self._epoch.turn,
            "shards_at_once": self._epoch.shards_at_once,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; the batches before are not made again.

        Raises:
            ValueError: If seed, length of an epoch, echo, pool, turning or order of shards differ: other batches would
                come.
        """
        for name in ("seed", "epoch_batches", "echo", "pool", "turn", "shards_at_once"):
            had, here = state_dict.get(name), self.state_dict()[name]
            if had != here:
                raise ValueError(f"the run to resume had {name}={had}, this one has {here}: set it back")
        self._start, self._echoed = tuple(state_dict["next"]), state_dict["echoed"]

    def _open(self, shards: str | Sequence[str], crop: tuple[int, int]) -> UsableSamples:
        index = ShardIndex(shards, self._loader_options.remote)
        found = usable(index, crop)
        self.broken.update(index.problems)
        for line in (*index.problems, *found.lines):
            warnings.warn(line, stacklevel=2)
        if not found.videos and not found.photos:
            raise ShardError(f"no usable samples in {shards}\n{(index.problems + found.lines + ['they are empty'])[0]}")
        return found

    def _split(self, name: str) -> UsableSamples:
        self.setup(None if name == "train" else "validate")
        return self._found[name]

    def _dataset(
        self, found: UsableSamples, degradation: Callable[..., Any] | None, *, crop: tuple[int, int], augment: bool
    ) -> ClipDataset:
        return ClipDataset(
            found.index,
            found.videos,
            found.photos,
            frames=self._frames,
            crop=crop,
            image_crop=self._image_crop,
            degradation=degradation,
            motion=self._photos.motion,
            augment=augment,
            cache_mib=self._loader_options.cache_mib,
        )

    def _train_loader(self, found: UsableSamples, plans: SingleClipPlans) -> DataLoader:
        options, memory = self._loader_options, self._loader_options.memory
        if memory is None:
            return plan_loader(self._dataset(found, self._degradation, crop=self._crop, augment=True), plans, options)
        if self._footage is None:
            device = "cpu" if self.trainer is None else self.trainer.strategy.root_device
            if memory.processes:
                self._folder = TemporaryDirectory(prefix="footage")
            folder = Path(self._folder.name) if self._folder else None
            self._footage = load_footage(
                found.index, found.videos, found.photos, device, self._photos.motion, memory, folder
            )
        if not memory.processes:
            return plan_loader(DrawnNumbers(), plans, options)
        assert self._device_degradation is not None  # __init__ refuses the rest
        maker = ClipMaker(self._footage, self._device_degradation, self._frames, self._crop, self._image_crop)
        return plan_loader(maker, plans, options, workers=memory.processes, spawn=True)

    def _place(self) -> tuple[int, int]:
        """Rank and number of processes."""
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _note(self, broken: list[str]) -> None:
        for line in broken:
            if line not in self.broken:
                warnings.warn(f"broken sample, another takes its place: {line}", stacklevel=2)
            self.broken[line] += 1
        if broken and self.trainer is not None and self.trainer.logger is not None:
            self.trainer.logger.log_metrics({"data/broken": float(self.broken.total())}, self.trainer.global_step)

    def _pass(self) -> EchoStart:
        """Where the next pass begins, and what of its clips the pool has and lacks."""
        (epoch, number), filled = self._start, len(self._buffer) > 0
        refill = 0 if filled else min(self._epoch.pool - 1, epoch * self._epoch.batches + number)
        return EchoStart(self._start, self._echoed, held=filled and self._echoed > 0, refill=refill)

    def _degraded(self, batch: dict[str, Any], image: bool = False) -> dict[str, Any]:
        """``hr``, ``lr`` and ``seed`` of what the loader sent, and the images' likewise, all uint8."""
        hr = batch["hr"] if "hr" in batch else self._drawn(batch, image)
        with torch.no_grad():
            if "lr" in batch:
                lr = batch["lr"]
            else:
                assert self._device_degradation is not None
                lr = self._device_degradation(hr, batch["seed"])
        degraded = {"hr": hr, "seed": batch["seed"], "lr": lr}
        return degraded | ({"image": self._degraded(batch["image"], image=True)} if "image" in batch else {})

    def _drawn(self, batch: dict[str, Any], image: bool) -> torch.Tensor:
        """Clips or images out of the footage in memory."""
        assert self._footage is not None
        photo, number, seed = (batch[name].tolist() for name in ("photo", "number", "seed"))
        frames, crop = (1, self._image_crop) if image else (self._frames, self._crop)
        return self._footage.batch(photo, number, seed, frames, crop)

    def _prepared(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A degraded batch, and what the stage computes once of it for all steps that will see it."""
        trainer = self.trainer
        prepare = None if trainer is None else getattr(trainer.lightning_module, "prepare", None)
        if trainer is None or prepare is None or self._epoch.turn:
            return batch
        finished = self._finish(batch)
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            images = {"image": batch["image"] | prepare(finished["image"])} if "image" in batch else {}
            return batch | prepare(finished) | images

    def _finish(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Convert to the floats that the stages take; what the stages prepared keeps its dtype."""
        hr = batch["hr"]
        finished = batch | {"hr": to_float(hr), "lr": upsample(batch["lr"], (hr.shape[3], hr.shape[4]))}
        return finished | ({"image": self._finish(batch["image"])} if "image" in batch else {})
