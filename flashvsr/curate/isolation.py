"""Steps on files of strangers run in a child process: a crash or a hang there costs one file, not the run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any

_PATIENCE = 10.0  # seconds for a child to end that has closed its pipe


class WorkerCrashed(Exception):
    """A step crashed or did not end; the message says which in a few words that do not vary from run to run."""


class WorkerProcess:
    """A Python process that calls functions, one after the other; started when first needed and after each crash.

    Functions are found by their import path; arguments and results are pickled. An exception that the function lets
    through ends the child, as a crash of a decoder does.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._errors: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any, timeout: float) -> Any:
        """The function's result.

        Args:
            function: At the top level of a module that the child can import.
            arguments: What it is called with.
            timeout: In seconds.

        Raises:
            WorkerCrashed: If the child died, or was stopped because the time was over.
        """
        if self._process is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send((function, arguments))
            if not self._pipe.poll(timeout):
                self.stop()
                raise WorkerCrashed(f"no result within {timeout:g} s")
            return self._pipe.recv()
        except (EOFError, ConnectionError) as error:
            raise WorkerCrashed(f"crashed ({self._last_words()})") from error

    def stop(self) -> None:
        """End the child, if there is one."""
        if self._process is not None and self._pipe is not None:
            self._process.kill()
            self._process.wait()
            self._pipe.close()
            self._errors.close()
        self._process = self._pipe = self._errors = None

    def _start(self) -> None:
        self._pipe, there = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 closed in stop()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
        # -c and not -m: what is pickled by reference must not lie in a second copy of this module
        command = [sys.executable, "-c", "from flashvsr.curate.isolation import serve; serve()"]
        self._process = subprocess.Popen(
            [*command, str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment,
        )
        there.close()
        try:
            self._pipe.recv()  # loading takes seconds that are not those of a call
        except EOFError as error:
            raise RuntimeError(f"the process that looks at files cannot be started: {self._last_words()}") from error

    def _last_words(self) -> str:
        """The signal, or the kind of exception, that ended the child."""
        assert self._process is not None
        try:
            status = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:  # it hangs at its end, when libraries stop their threads
            self._process.kill()
            status = self._process.wait()
        if status < 0:
            words = f"signal {-status}"
        else:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            words = lines[-1].partition(":")[0].rpartition(".")[2] if lines else f"status {status}"
        self.stop()
        return words


def serve() -> None:
    """Answer calls until the other end is closed; what the child process runs."""
    import av
    import cv2
    import torch

    av.logging.set_level(None)
    cv2.setNumThreads(1)  # one core each: the engine counts them, and results do not depend on their number
    torch.set_num_threads(1)
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    pipe.send("ready")
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(function(*arguments))


_WORKER = WorkerProcess()


def call_isolated(function: Callable[..., Any], *arguments: Any, timeout: float) -> Any:
    """`WorkerProcess.call` with the one child that this process keeps."""
    return _WORKER.call(function, *arguments, timeout=timeout)
