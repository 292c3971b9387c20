"""Parts of a video, each upscaled in a process of its own, or one after the other in this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from flashvsr.upscale.errors import explain
from flashvsr.upscale.job import Job
from flashvsr.upscale.parts import Part
from flashvsr.upscale.progress import Silent

Told = Callable[[int, str, Any], None]
"""Takes the number of a part, a kind (``"frames"`` finished, a ``"line"`` to say, a ``"failure"``), and what it is."""

GOODBYE = 5.0  # seconds that a process gets to end when it is told to


class Teller(Silent):
    """Reports of a part, on their way to whoever runs them all.

    Args:
        tell: Takes a kind, and what there is to say.
    """

    def __init__(self, tell: Callable[[str, Any], None]) -> None:
        self._tell = tell

    def start(self, done: int, total: int | None) -> None:
        """Tell the frames of earlier runs."""
        self._tell("frames", done)

    def update(self, done: int) -> None:
        """Tell the frames that are finished."""
        self._tell("frames", done)

    def line(self, text: str) -> None:
        """Tell a line."""
        self._tell("line", text)


def devices_for(device: str, count: int) -> list[str]:
    """Spread parts over devices.

    Args:
        device: One, or several with commas; ``"cuda:*"`` and ``"auto"`` are all GPUs, ``"auto"`` the CPU if there are
            none.
        count: How many parts there are.

    Returns:
        One for each part, in turn.

    Raises:
        ValueError: If a device is not there.
    """
    from flashvsr.models.loading import choose_device, choose_devices

    if device == "cuda:*" or (device == "auto" and torch.cuda.device_count()):
        names = [str(one) for one in choose_devices("cuda:*")]
    else:
        names = [str(choose_device(name.strip())) for name in device.split(",")]
    return [names[number % len(names)] for number in range(count)]


def run_in_turn(job: Job, parts: Sequence[Part], folders: Mapping[int, Path], told: Told) -> None:
    """Upscale parts one after the other in this process, with a model that is loaded.

    Args:
        job: What is done with each of them.
        parts: What is left of the video.
        folders: Where each part belongs, by number.
        told: Told of progress and failures, which do not stop the rest.
    """
    for part in parts:
        _upscale(job, part, folders[part.number], partial(told, part.number))


def run_in_processes(jobs: Sequence[Job], parts: Sequence[Part], folders: Mapping[int, Path], told: Told) -> None:
    """Upscale parts at the same time, each in a process that ends when this one does.

    Args:
        jobs: What is done with each of them; its model is a name or a folder.
        parts: What is left of the video.
        folders: Where each part belongs, by number.
        told: Told of progress and failures, which do not stop the rest.
    """
    context = multiprocessing.get_context("spawn")
    processes, numbers = [], {}
    try:
        with _interrupts_ignored():  # by the children, which hear of it from here
            for job, part in zip(jobs, parts, strict=True):
                ours, theirs = context.Pipe(duplex=False)
                plain = replace(job, report=Silent(), progress=None)
                process = context.Process(
                    target=_in_process, args=(plain, part, folders[part.number], theirs, len(parts)), daemon=True
                )
                process.start()
                theirs.close()
                processes.append(process)
                numbers[ours] = part.number, process
        listen(numbers, told)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(GOODBYE)
            process.kill()


def listen(numbers: dict[Any, tuple[int, Any]], told: Told) -> None:
    """Pass on what processes tell until the last one has ended.

    Args:
        numbers: The number of a part and its process, for each pipe that it tells through.
        told: As for `run_in_processes`; a process that ends without a word is a failure.
    """
    open_pipes, failed = dict(numbers), set()
    pipe: Any
    while open_pipes:
        for pipe in wait(list(open_pipes)):
            number, process = open_pipes[pipe]
            try:
                kind, said = pipe.recv()
            except EOFError:
                del open_pipes[pipe]
                process.join()
                if process.exitcode and number not in failed:
                    told(number, "failure", f"its process ended with {_reason(process.exitcode)}")
                continue
            if kind == "failure":
                failed.add(number)
            told(number, kind, said)


def _reason(status: int) -> str:
    if status == -9:
        return "signal 9, as when memory is short"
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _in_process(job: Job, part: Part, folder: Path, pipe: Connection, count: int) -> None:
    """What the process of a part does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if torch.device(job.loading.device).type == "cpu":
        torch.set_num_threads(max(1, torch.get_num_threads() // count))
    _upscale(job, part, folder, lambda kind, said: pipe.send((kind, said)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _upscale(job: Job, part: Part, folder: Path, tell: Callable[[str, Any], None]) -> None:
    try:
        replace(job, report=Teller(tell), progress=None, frames=0, warnings=[]).run_part(part, folder)
    except Exception as error:  # noqa: BLE001 - the other parts go on; what is no mistake of a user is shown in full
        message = explain(error)
        if message is None:
            traceback.print_exception(error)
            message = f"{type(error).__name__}: {error}"
        tell("failure", message)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes that are started meanwhile ignore Ctrl-C, where signals are handled: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
