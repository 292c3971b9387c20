"""``OUTPUT.partial/``: what a run leaves behind so that another can go on where it was killed.

The folder holds closed segments of the output, one snapshot of the stream taken where the last of them ends, and
``journal.json``, which alone says what counts. The journal is replaced atomically and only after everything it names
is on the disk; whatever it does not name is a leftover of the killed run and is deleted. So a run may be killed at any
moment: before the replacement the old boundary holds, after it the new one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, Self

import torch

from flashvsr.upscale.disk import LOCK, delete, is_in_use, locked, to_disk
from flashvsr.upscale.errors import InUseError, ResumeError
from flashvsr.upscale.record import FRESH, JOURNAL, START_OVER, Boundary, Record, has_journal

SEGMENT = "segment-"
JOINED = "joined"  # stem of the finished result before it gets its name
PARTS = "parts"  # folder of a run in parts: one with a journal of its own for each
OURS = re.compile(rf"journal\.(json|new)|lock|{SEGMENT}\d{{9}}(\.\w+)?|state-\d{{9}}\.pt|{JOINED}(\..+)?|{PARTS}")


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
        journal = cls(folder, Record(dict(settings), resumable), _claimed(folder))
        if busy := next(filter(is_in_use, journal._parts()), None):
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
        lock = _claimed(folder)
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
        lock = locked(folder)
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
        to_disk(snapshot)
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
        to_disk(joined)
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
        to_disk(segment)
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
        return frames if frames or any(map(is_in_use, self._parts())) else None

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


def _claimed(folder: Path) -> BinaryIO:
    """Make and lock a partial folder, unless it holds something that no run has put there."""
    folder.mkdir(exist_ok=True)
    names = {path.name for path in folder.iterdir()} - {LOCK, FRESH}
    if names and JOURNAL not in names:
        raise ResumeError(f"{folder} holds {min(names)} and no journal, so it is not ours: move it away")
    return locked(folder)
