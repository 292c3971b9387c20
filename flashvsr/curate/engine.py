"""Runs the stages: one after the other in this process, or as one Ray Data pipeline."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from flashvsr.curate import CurateError

_BLOCKS = 20_000  # tasks that a stage is cut into, at most
_PATIENCE = 10  # seconds for a cluster to answer
_STORE = 512 * 2**20  # bytes of shared memory of a Ray that is started here


@dataclass(frozen=True)
class PipelineStage:
    """A step of the pipeline.

    Attributes:
        name: In messages.
        call: One item to those that come of it; pickled, so a function or an object of this package.
        make: Instead of ``call``: makes it, once in each actor; for what is slow to load and wants a GPU.
        spreads: Many items may come of one: they are spread over the workers again.
    """

    name: str
    call: Callable[[Any], list[Any]] | None = None
    make: Callable[[], Callable[[Any], Any]] | None = None
    spreads: bool = False


def run_in_process(items: Iterable[Any], stages: Sequence[PipelineStage]) -> Iterator[Any]:
    """Every item through all stages, in order, in this process: what `run_ray` must equal, but for the order."""
    calls = [stage.call or _each(stage.make) for stage in stages]

    def through(item: Any, rest: Sequence[Callable[[Any], list[Any]]]) -> Iterator[Any]:
        if not rest:
            yield item
            return
        for made in rest[0](item):
            yield from through(made, rest[1:])

    for item in items:
        yield from through(item, calls)


def _each(make: Callable[[], Callable[[Any], Any]] | None) -> Callable[[Any], list[Any]]:
    assert make is not None, "a stage has a call or a maker of one"
    call = make()
    return lambda item: [call(item)]


def run_ray(items: Sequence[Any], stages: Sequence[PipelineStage]) -> Iterator[Any]:
    """Every item through all stages, as one Ray Data pipeline on the Ray that this process is connected to.

    Items travel pickled; stages with ``make`` run in actors, each on a GPU of its own if the cluster has any. The order
    of what comes out is not that of the items.
    """
    if not items:
        return
    ray = import_module("ray")
    import_module("ray.data")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    data = ray.data.from_items([{"item": pickle.dumps(item)} for item in items])
    data = data.repartition(min(len(items), _BLOCKS))
    for stage in stages:
        if stage.make is not None:
            most = max(1, gpus)
            pool = ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=most)
            data = data.map_batches(
                _Actor,
                fn_constructor_args=(stage.make,),
                batch_size=1,
                compute=pool,
                num_cpus=0,
                num_gpus=int(gpus > 0),
            )
        else:
            data = data.flat_map(_Task(stage.call))
        if stage.spreads:
            data = data.repartition(target_num_rows_per_block=1)
    for row in data.iter_rows():
        yield pickle.loads(row["item"])


@dataclass(frozen=True)
class _Task:
    """A stage on a row of Ray Data."""

    call: Callable[[Any], list[Any]] | None

    def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        assert self.call is not None
        return [{"item": pickle.dumps(made)} for made in self.call(pickle.loads(row["item"]))]


class _Actor:
    """A stage with state on a batch of Ray Data."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._call = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {"item": [pickle.dumps(self._call(pickle.loads(item))) for item in batch["item"]]}


class RaySession:
    """A Ray for the time of a ``with`` block: of this machine's own, or a cluster's.

    Args:
        workers: Tasks at a time, on a Ray that is started here.
        address: Of a cluster, or ``"auto"``; None starts one here. A Ray that this process is connected to is used as
            it is, and left running.

    Raises:
        CurateError: If Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, workers: int, address: str | None) -> None:
        self._workers, self._address, self._ours = workers, address, False

    def __enter__(self) -> None:
        # Ray asks for these before it is imported
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray = import_module("ray")
            import_module("ray.data")
        except ImportError as error:
            raise CurateError(
                f"curating with workers needs Ray Data: {error}\npip install 'flashvsr[curate]', or use --workers 0"
            ) from error
        if ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self._address is None:
            options |= {"num_cpus": self._workers, "include_dashboard": False, "object_store_memory": _STORE}
            options["address"] = "local"
        else:
            options["address"] = self._address
        try:
            if self._address is not None:
                _knock(self._address)
            ray.init(**options)
        except (OSError, RuntimeError) as error:
            where = self._address or "here"
            raise CurateError(f"Ray cannot be started or reached ({where}): {error}\ncheck --cluster") from error
        self._ours = True

    def __exit__(self, *problem: object) -> None:
        if self._ours:
            import_module("ray").shutdown()


def _knock(address: str) -> None:
    """Whether anything answers there; Ray itself would try for minutes.

    Raises:
        OSError: If not.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
