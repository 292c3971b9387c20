"""Files that wait for their turn: one is upscaled at a time, and each can be stopped and go on."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from flashvsr.app.errors import explain
from flashvsr.app.models import with_detail
from flashvsr.app.queued_file import QueuedFile, Settings, State
from flashvsr.app.uploads import check_upload, plain_name
from flashvsr.streaming import StreamingModel
from flashvsr.upscale import upscale_file
from flashvsr.upscale.disk import delete
from flashvsr.upscale.errors import ResumeError
from flashvsr.upscale.progress import duration
from flashvsr.upscale.record import Record, has_journal
from flashvsr.upscale.target import Target
from flashvsr.video import VideoError

SEGMENT_SECONDS = 10.0  # of video between two points from which a stopped run can go on
MOST_FILES = 100


class Stopped(Exception):
    """Raised inside a run that its user stops."""


class Queue:
    """Upscales one file at a time, in a thread of its own, in the order in which they were started.

    Args:
        folder: Where files and results are kept, each in a folder of its own.
        load: Gives the model of a name, loaded; called once a run.
        most_bytes: The largest file that is accepted.
    """

    def __init__(self, folder: Path, load: Callable[[str], StreamingModel], *, most_bytes: int = 4 << 30) -> None:
        self._folder, self._load, self._most_bytes = folder, load, most_bytes
        self._files: dict[int, QueuedFile] = {}
        self._turns: list[int] = []
        self._last = 0
        self._stop: int | None = None  # the file whose run is to stop
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="flashvsr-app-queue", daemon=True)
        self._thread.start()

    def add(self, path: Path, name: str | None = None) -> QueuedFile:
        """Take a file over: it is checked and moved; one that is refused is deleted.

        Args:
            path: The file.
            name: What its owner called it; None takes the name it has.

        Returns:
            The file, ready to be started.

        Raises:
            VideoError: If it cannot be upscaled, or the queue is full.
        """
        shown = plain_name(name or path.name)
        with self._changed:
            full = len(self._files) >= MOST_FILES
            self._last += 1
            number = self._last
        home = self._folder / str(number)
        try:
            if full:
                raise VideoError(f"there are {MOST_FILES} files already: remove some")
            home.mkdir()
            kept = home / f"input{Path(shown).suffix}"
            path.replace(kept)
            upload = check_upload(kept, shown, most_bytes=self._most_bytes)
        except VideoError:
            path.unlink(missing_ok=True)
            shutil.rmtree(home, ignore_errors=True)
            raise
        file = QueuedFile(number, upload, total=upload.frames)
        with self._changed:
            self._files[number] = file
        return file

    def files(self) -> list[QueuedFile]:
        """A copy of every file as it is now, in the order of their arrival."""
        with self._changed:
            return [replace(file, log=list(file.log)) for file in self._files.values()]

    def file(self, number: int) -> QueuedFile:
        """A copy of one file as it is now.

        Raises:
            KeyError: If there is none of this number.
        """
        with self._changed:
            return replace(self._files[number], log=list(self._files[number].log))

    def start(self, number: int, settings: Settings | None = None) -> None:
        """Put a file at the end of the queue. A stopped or failed one goes on where it was, unless settings changed.

        Args:
            number: Of the file.
            settings: How it is upscaled; None takes those of its last run, or the defaults.

        Raises:
            KeyError: If there is no such file.
            ValueError: If it is larger than the size asked for.
        """
        with self._changed:
            file = self._files[number]
            if file.state in (State.WAITING, State.RUNNING):
                return
            settings = settings or file.settings or Settings()
            target = settings.target(file.upload)
            if file.state is State.DONE or settings != file.settings:
                self._forget_results(file)
            file.settings, file.target, file.state = settings, target, State.WAITING
            file.fps, file.trace = None, ""
            self._turns.append(number)
            self._changed.notify_all()

    def stop(self, number: int) -> None:
        """Stop a run after the frames it is working on, or take a waiting file out of the queue."""
        with self._changed:
            file = self._files[number]
            if file.state is State.WAITING:
                self._turns.remove(number)
                file.state = State.STOPPED if file.done else State.READY
            elif file.state is State.RUNNING:
                self._stop = number
                file.say("stopping after the frames in work")

    def remove(self, number: int) -> None:
        """Delete a file and its result. One that runs must be stopped first.

        Raises:
            KeyError: If there is no such file.
            ValueError: If it is running.
        """
        with self._changed:
            file = self._files[number]
            if file.state is State.RUNNING:
                raise ValueError(f"{file.upload.name} is being upscaled: stop it first")
            if number in self._turns:
                self._turns.remove(number)
            del self._files[number]
        shutil.rmtree(self._folder / str(number), ignore_errors=True)

    def close(self, timeout: float = 20.0) -> None:
        """Stop the run, and wait for it for some seconds; it cannot be used again."""
        with self._changed:
            self._closed = True
            self._turns.clear()
            self._changed.notify_all()
        self._thread.join(timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing runs or waits; False when the time is over before."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy(), timeout)

    def _busy(self) -> bool:
        return any(file.state in (State.WAITING, State.RUNNING) for file in self._files.values())

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._turns or self._closed)
                if self._closed:
                    return
                file = self._files[self._turns.pop(0)]
                file.state = State.RUNNING
            state = self._run(file)
            with self._changed:
                self._stop = None
                file.state = state
                self._changed.notify_all()

    def _run(self, file: QueuedFile) -> State:
        """Upscale one file; all that can go wrong ends in its log, so that the queue goes on."""
        assert file.settings is not None and file.target is not None
        output = self._output(file)
        try:
            height, width = file.target
            name, detail = file.settings.model, file.settings.detail
            how = name if detail == 1 else f"{name}, detail {detail:g}"
            file.say(f"{file.upload.width}x{file.upload.height} to {width}x{height} with {how}")
            model = with_detail(self._load(name), detail)
            kept = _kept_frames(output)
            if kept:
                file.say(f"goes on after {kept} frames")
            result = upscale_file(
                file.upload.path,
                output.name,
                model=model,
                scale=file.settings.scale,
                clip=file.settings.clip,
                resume=True,
                segment_seconds=SEGMENT_SECONDS,
                quiet=True,
                progress=partial(self._progress, file, kept, time.monotonic()),
            )
        except Stopped:
            file.done = _kept_frames(output)
            kept_words = f"{file.done} frames are kept, Resume goes on from there" if file.done else "nothing is kept"
            file.say(f"stopped, {kept_words}")
            return State.STOPPED
        except Exception as error:  # noqa: BLE001 - a queue outlives every failure; it is told in the file's log
            message, expected = explain(error)
            file.say(f"failed: {message}")
            file.trace = "" if expected else "".join(traceback.format_exception(error))
            file.done = _kept_frames(output)
            return State.FAILED
        for warning in result.warnings:
            file.say(f"note: {warning}")
        what = "" if file.upload.is_picture else f"{result.frames} frames, {result.fps:.2f} fps, "
        file.say(f"done: {what}{duration(result.seconds)}")
        file.done = file.total = result.frames
        file.output = output.path
        return State.DONE

    def _progress(self, file: QueuedFile, kept: int, began: float, done: int, total: int | None) -> None:
        if self._closed or self._stop == file.number:
            raise Stopped
        file.done, file.total = done, total
        file.fps = (done - kept) / max(time.monotonic() - began, 1e-9)

    def _output(self, file: QueuedFile) -> Target:
        assert file.settings is not None
        stem = f"{Path(file.upload.name).stem}_{file.settings.size}"
        name = f"{stem}.{'png' if file.upload.is_picture else file.settings.container}"
        folder = self._folder / str(file.number) / "result"
        folder.mkdir(exist_ok=True)
        return Target.parse(folder / name)

    def _forget_results(self, file: QueuedFile) -> None:
        for path in (self._folder / str(file.number)).iterdir():
            if path != file.upload.path:
                delete(path)
        file.done, file.output = 0, None


def _kept_frames(output: Target) -> int:
    """Frames of an earlier run that its journal holds."""
    if not has_journal(output.partial):
        return 0
    try:
        return Record.read(output.partial).boundary.frames_out
    except ResumeError:
        return 0
