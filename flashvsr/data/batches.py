"""Batches put together from clips that the workers of a data loader make one by one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from flashvsr.data.sampling import BatchPlan, EpochPlan
from flashvsr.data.settings import LoaderOptions
from flashvsr.data.tar_samples import ShardError
from flashvsr.streaming import resize_bicubic


class SingleClipPlans(Sampler):
    """The batches of a plan as plans of one clip each.

    Args:
        plan: Gives batches of one size.
    """

    def __init__(self, plan: EpochPlan) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return len(self.plan) * self.plan.batch_size

    def __iter__(self) -> Iterator[BatchPlan]:
        for batch in self.plan:
            yield from batch.split()


class FixedPlans(DistributedSampler):
    """Plans in their order; a DistributedSampler only so that Lightning leaves it in place.

    Args:
        plans: Of a validation.
    """

    def __init__(self, plans: list[BatchPlan]) -> None:
        super().__init__(plans, num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]  # a list has the length it asks for
        self._plans = plans

    def __iter__(self) -> Iterator[BatchPlan]:
        return iter(self._plans)


class BatchLoader:
    """Whole batches of a loader that gives one clip at a time, in its order.

    All workers help with every batch. If each made one of its own, the first of a run would come, and a worker could be
    stopped, only after as many clips as a batch holds: 16 degraded clips of 33x256x256 take 25 seconds.

    Args:
        loader: Over the plans of :class:`SingleClipPlans`.
        clips: Of a batch.
    """

    def __init__(self, loader: DataLoader, clips: int) -> None:
        self.loader, self.clips = loader, clips
        self.sampler = loader.sampler

    def __len__(self) -> int:
        return len(self.loader) // self.clips

    def __iter__(self) -> Iterator[dict[str, Any]]:
        made = iter(self.loader)
        for first in made:
            yield join([first, *islice(made, self.clips - 1)])

    @property
    def _iterator(self) -> Any:
        """The workers of the loader. Lightning ends them after a run, and looks for them under this name."""
        return self.loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self.loader._iterator = iterator


class WorkerLoader(DataLoader):
    """A data loader that ends its workers when one fails, and hands on what one says of shards without its traceback.

    An error keeps the workers alive, and who collects that garbage, a fork perhaps, may hang.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # Lightning asks for no more
        try:
            yield from super().__iter__()
        except ShardError as error:
            self._stop_workers()
            told = str(error).rpartition(f"{ShardError.__module__}.{ShardError.__name__}: ")[2].strip()
            raise ShardError(told) from None
        except Exception:
            self._stop_workers()
            raise

    def _stop_workers(self) -> None:
        workers: Any = self._iterator  # there only is one where there are workers
        if workers is not None:
            workers._shutdown_workers()
            self._iterator = None


def plan_loader(
    dataset: Dataset, plans: Sampler, options: LoaderOptions, *, workers: int | None = None, spawn: bool = False
) -> DataLoader:
    """What makes the batches of some plans in worker processes.

    Args:
        dataset: Makes the batch of a plan.
        plans: In their order.
        options: Of the workers.
        workers: How many; None for as many as the options say.
        spawn: Start them anew, for a device cannot be used in a fork.
    """
    workers = options.workers if workers is None else workers
    return WorkerLoader(
        dataset,
        batch_size=None,
        sampler=plans,
        num_workers=workers,
        prefetch_factor=options.prefetch if workers else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_outlive_ctrl_c,
        multiprocessing_context="spawn" if spawn else None,
    )


def join(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One batch of parts that `ClipDataset` made: tensors one after another, nested dicts likewise, all broken samples.

    A part without images adds none.
    """
    joined = dict(parts[0])
    for name in {name for part in parts for name in part} - {"position"}:
        values = [part[name] for part in parts if name in part]
        if isinstance(values[0], dict):
            joined[name] = join(values)
        elif isinstance(values[0], list):
            joined[name] = [line for value in values for line in value]
        elif len(values) > 1:
            joined[name] = torch.cat(values)
    return joined


def upsample(small: Tensor, size: tuple[int, int]) -> Tensor:
    """`[B,3,T,h,w]` uint8 to `[B,3,T,*size]` float in [-1, 1]: as a stream upsamples what it is given."""
    large = resize_bicubic(small.transpose(1, 2).flatten(0, 1), size)
    return to_float(large.unflatten(0, (small.shape[0], small.shape[2])).transpose(1, 2).contiguous())


def to_float(frames: Tensor) -> Tensor:
    """Bytes to floats in [-1, 1]."""
    return frames.float().div_(127.5).sub_(1)


def _outlive_ctrl_c(worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the training: it needs a worker to end its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
