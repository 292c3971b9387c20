"""``OUTPUT.partial/``: what a run leaves behind so that another can go on where it was killed.

The folder holds closed segments of the output, one snapshot of the stream taken where the last of them ends, and
``journal.json``, which alone says what counts. The journal is replaced atomically and only after everything it names
is on the disk; whatever it does not name is a leftover of the killed run and is deleted. So a run may be killed at any
moment: before the replacement the old boundary holds, after it the new one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, Self

import torch

FORMAT = 2  # of journal.json; another number is refused
JOURNAL = "journal.json"
FRESH = "journal.new"  # written first, then renamed
LOCK = "lock"
SEGMENT = "segment-"
JOINED = "joined"  # stem of the finished result before it gets its name
PARTS = "parts"  # folder of a run in parts: one with a journal of its own for each
OURS = re.compile(rf"journal\.(json|new)|lock|{SEGMENT}\d{{9}}(\.\w+)?|state-\d{{9}}\.pt|{JOINED}(\..+)?|{PARTS}")
START_OVER = "go back to what it was made with, or start over with --overwrite"


class ResumeError(ValueError):
    """A partial folder that cannot be used: another run's, made by other settings, or damaged."""


class InUseError(ResumeError):
    """A partial folder that another run is using at the moment."""


@dataclass(frozen=True)
class Boundary:
    """Where a closed segment ends.

    Attributes:
        frames_in: Input frames that the stream has taken.
        frames_out: Output frames in the closed segments.
        pending: Times of the frames taken and not yet given back, in seconds since the clip's first frame.
        last_duration: At the end of the clip, how long the last frame is shown, in seconds; None when unknown.
    """

    frames_in: int = 0
    frames_out: int = 0
    pending: tuple[Fraction, ...] = ()
    last_duration: Fraction | None = None


@dataclass(frozen=True)
class Record:
    """What ``journal.json`` says.

    Attributes:
        settings: Everything that shapes the frames, by the name a person knows it under; as JSON keeps it.
        resumable: Whether snapshots are kept. Without them the folder is only a place to work in.
        segments: The closed segments, in order: their paths in the folder.
        boundary: Where the last closed segment ends.
        snapshot: Name of the file with the stream's state at the boundary; None at the start and at the end.
        stage: ``"running"``, ``"written"`` (every frame is in a closed segment) or ``"joined"`` (the result is put
            together; it is about to get its final name, or has it).
    """

    settings: dict[str, Any]
    resumable: bool = True
    segments: tuple[str, ...] = ()
    boundary: Boundary = field(default_factory=Boundary)
    snapshot: str | None = None
    stage: str = "running"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Look into a partial folder without locking or changing it.

        Raises:
            ResumeError: If it holds no journal, or one that is damaged or of another format.
        """
        path = folder / JOURNAL
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ResumeError(f"{path} was written by another version of flashvsr: {START_OVER}")
            boundary = content.pop("boundary")
            boundary["pending"] = tuple(Fraction(time) for time in boundary["pending"])
            last = boundary.get("last_duration")
            boundary["last_duration"] = None if last is None else Fraction(last)
            segments = tuple(content.pop("segments"))
            return cls(segments=segments, boundary=Boundary(**boundary), **content)
        except FileNotFoundError:
            raise ResumeError(f"{folder} holds no journal, so nothing can be resumed: {START_OVER}") from None
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ResumeError(f"{path} is damaged ({error}): {START_OVER}") from error

    def write(self, folder: Path) -> None:
        """Replace the journal of a folder, atomically."""
        content = {"format": FORMAT, **asdict(self)}
        content["boundary"]["pending"] = [str(time) for time in self.boundary.pending]
        last = self.boundary.last_duration
        content["boundary"]["last_duration"] = None if last is None else str(last)
        fresh = folder / FRESH
        fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
        _to_disk(fresh)
        fresh.replace(folder / JOURNAL)
        _flush(folder)

    def check(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Refuse to go on under other settings.

        Raises:
            ResumeError: If there are any; each is named.
        """
        if differences := self.differences(settings):
            raise ResumeError(f"{folder} was made with another {', another '.join(differences)}: {START_OVER}")

    def differences(self, settings: Mapping[str, Any]) -> list[str]:
        """Each setting that is not the same here and there, with both values."""
        return [
            f"{name} (then {self.settings.get(name)}, now {settings.get(name)})"
            for name in {**self.settings, **settings}
            if self.settings.get(name) != settings.get(name)
        ]


class Journal:
    """The partial folder of one output, open for writing and locked against a second run.

    Made by `create` or `resume`. A context manager: when the run succeeds, or fails with nothing worth keeping, the
    folder is deleted; else it stays, and the error gets a note that says so.

    Attributes:
        folder: The folder, ``OUTPUT.partial``.
        record: What its journal says.
    """

    def __init__(self, folder: Path, record: Record, lock: BinaryIO) -> None:
        self.folder = folder
        self.record = record
        self._lock = lock

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, Any], *, resumable: bool = True) -> Self:
        """Start a partial folder; an earlier run's is emptied.

        Raises:
            ResumeError: If another run is using the folder, or it holds something that no run has put there.
            OSError: If it cannot be written.
        """
        journal = cls(folder, Record(dict(settings), resumable), _ours(folder))
        if busy := next(filter(_is_in_use, journal._parts()), None):
            journal.close()
            raise InUseError(f"{busy} is in use by another run: wait for it, or choose another output")
        if (folder / PARTS).exists():
            delete(folder / PARTS)
        journal.record.write(folder)
        journal._sweep()
        return journal

    @classmethod
    def share(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """Start a partial folder unless there is one, which stays as it is: for several that begin at once.

        Raises:
            ResumeError: As for `create`, and if it was made with other settings.
            OSError: If it cannot be written.
        """
        lock = _ours(folder)
        try:
            if has_journal(folder):
                Record.read(folder).check(folder, settings)
            else:
                Record(dict(settings)).write(folder)
        except BaseException:
            lock.close()
            raise
        return cls(folder, Record.read(folder), lock)

    @classmethod
    def resume(cls, folder: Path, settings: Mapping[str, Any]) -> Self:
        """Open a partial folder that was made under the same settings, and clear away what was not closed.

        Raises:
            ResumeError: If the folder holds no readable journal, was made with other settings (each one that differs
                is named) or without snapshots, or is in use by another run.
        """
        lock = _locked(folder)
        try:
            record = Record.read(folder)
            if not record.resumable:
                raise ResumeError(f"{folder} was made without snapshots, nothing can be resumed: {START_OVER}")
            record.check(folder, settings)
        except ResumeError:
            lock.close()
            raise
        journal = cls(folder, record, lock)
        journal._sweep()
        return journal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.close()
        if error is None:
            self._remove()
        elif self.record.resumable and (frames := self._kept()) is not None:
            kept = f"{frames} frames are kept in {self.folder}"
            error.add_note(f"{kept}: the same command with --resume goes on from there")
        else:
            with suppress(OSError):  # the error on its way out matters more
                self._remove()

    def close(self) -> None:
        """Let others use the folder; everything in it stays."""
        self._lock.close()

    def new_segment(self, suffix: str) -> Path:
        """Where the next segment is to be written; it does not count before `close_segment`."""
        return self.folder / f"{SEGMENT}{self.record.boundary.frames_out:09d}{suffix}"

    def close_segment(self, segment: Path, boundary: Boundary, state: Mapping[str, Any]) -> int:
        """Make a finished segment count, together with the snapshot that belongs to its end.

        The new snapshot is on the disk before the old one goes, so there is room for two at a time.

        Args:
            segment: The file or folder of images that `new_segment` named, closed.
            boundary: Where it ends.
            state: The stream's ``state_dict()`` there.

        Returns:
            Size of the snapshot in bytes.
        """
        snapshot = self.folder / f"state-{boundary.frames_out:09d}.pt"
        torch.save(dict(state), snapshot)
        _to_disk(snapshot)
        self._append(segment, boundary, snapshot=snapshot.name)
        return snapshot.stat().st_size

    def finish(self, segment: Path, boundary: Boundary) -> None:
        """Make the last segment count: every frame is on the disk now, and the snapshot is no longer needed."""
        self._append(segment, boundary, snapshot=None, stage="written")

    def gather(self, parts: Sequence[Path]) -> None:
        """Make the closed segments of all parts count as those of this run.

        Args:
            parts: Their folders, in order; each with every frame of its part in closed segments.

        Raises:
            ResumeError: If two were made with other settings, as on another kind of device.
        """
        records = [Record.read(part) for part in parts]
        for part, record in zip(parts, records, strict=True):
            record.check(part, records[0].settings)
        self._update(
            segments=tuple(
                f"{PARTS}/{part.name}/{name}"
                for part, record in zip(parts, records, strict=True)
                for name in record.segments
            ),
            boundary=Boundary(
                sum(record.boundary.frames_in for record in records),
                sum(record.boundary.frames_out for record in records),
                last_duration=records[-1].boundary.last_duration,
            ),
            stage="written",
        )

    def mark_joined(self, joined: Path) -> None:
        """Say that the result is put together; after this only its renaming is left."""
        _to_disk(joined)
        self._update(stage="joined")

    def joined(self, suffix: str) -> Path:
        """Where the result is to be put together."""
        return self.folder / f"{JOINED}{suffix}"

    def segments(self) -> list[Path]:
        """The closed segments, in order."""
        return [self.folder / name for name in self.record.segments]

    def load_state(self) -> dict[str, Any] | None:
        """The stream's state at the boundary, on the CPU; None when the run starts from the first frame.

        Raises:
            ResumeError: If the snapshot is damaged or missing.
        """
        if self.record.snapshot is None:
            return None
        path = self.folder / self.record.snapshot
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            raise ResumeError(f"the snapshot {path} cannot be read: {START_OVER}") from error

    def _append(self, segment: Path, boundary: Boundary, **changes: Any) -> None:
        old = self.record.snapshot
        _to_disk(segment)
        self._update(segments=(*self.record.segments, segment.name), boundary=boundary, **changes)
        if old is not None:
            (self.folder / old).unlink()

    def _update(self, **changes: Any) -> None:
        record = replace(self.record, **changes)
        record.write(self.folder)
        self.record = record

    def _kept(self) -> int | None:
        """Frames in closed segments, those of parts included; None when nothing is lost with the folder."""
        if self.record.segments:
            return self.record.boundary.frames_out
        frames = sum(Record.read(part).boundary.frames_out for part in self._parts())
        return frames if frames or any(map(_is_in_use, self._parts())) else None

    def _parts(self) -> list[Path]:
        return [path for path in (self.folder / PARTS).glob("*") if has_journal(path)]

    def _remove(self) -> None:
        """Delete the folder, the journal last: as long as anything is left, it says that the result has its name."""
        for path in self._ours():
            if path.name != JOURNAL:
                delete(path)
        (self.folder / JOURNAL).unlink()
        if not any(self.folder.iterdir()):  # what is not ours stays
            self.folder.rmdir()

    def _ours(self) -> list[Path]:
        """What is in the folder under a name that a run gives."""
        return [path for path in self.folder.iterdir() if OURS.fullmatch(path.name)]

    def _sweep(self) -> None:
        """Delete what the journal does not name; parts and a result that is being put together stay."""
        named = {JOURNAL, LOCK, PARTS, self.record.snapshot, *self.record.segments}
        for path in self._ours():
            if path.name not in named and (self.record.stage == "running" or path.stem != JOINED):
                delete(path)


def has_journal(folder: Path) -> bool:
    """Whether a run got as far as writing a journal into this folder."""
    return (folder / JOURNAL).exists()


def _is_in_use(folder: Path) -> bool:
    """Whether a run has locked this folder."""
    try:
        _locked(folder).close()
    except InUseError:
        return True
    return False


def delete(path: Path) -> None:
    """Delete a file or a folder with all it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _ours(folder: Path) -> BinaryIO:
    """Make and lock a partial folder, unless it holds something that no run has put there."""
    folder.mkdir(exist_ok=True)
    names = {path.name for path in folder.iterdir()} - {LOCK, FRESH}
    if names and JOURNAL not in names:
        raise ResumeError(f"{folder} holds {min(names)} and no journal, so it is not ours: move it away")
    return _locked(folder)


def _locked(folder: Path) -> BinaryIO:
    """Lock a folder until the returned file is closed, or the process dies."""
    lock = (folder / LOCK).open("wb")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # of Linux and macOS, and of Windows
        lock.close()
        raise InUseError(f"{folder} is in use by another run: wait for it, or choose another output") from None
    return lock


def _to_disk(path: Path) -> None:
    """Wait until a file, or a folder and all it holds, would survive a power cut."""
    if path.is_dir():
        for inner in path.iterdir():
            _to_disk(inner)
    _flush(path)


def _flush(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
