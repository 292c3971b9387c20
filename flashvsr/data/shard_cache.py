"""A folder of whole shards from URLs, shared by the processes of a host."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from pathlib import Path
from typing import IO

from flashvsr.data.remote import base_name, fetch
from flashvsr.data.settings import RemoteOptions
from flashvsr.data.tar_samples import ShardError

_NAME = re.compile(r"[0-9a-f]{16}-[a-zA-Z0-9_.-]*")
_PART = ".part"


class ShardCache:
    """Shards as local files. Each is fetched once, by the first process that needs it; others wait for it.

    A shard is written beside its name and renamed when it is whole, so a killed process leaves nothing that looks like
    one. The file that is being written is also the lock (``flock``): the system opens it when its process ends.

    Args:
        folder: Of the files; made when needed. Files of other names are not touched.
        options: How shards are fetched, and how much the folder may hold.

    Raises:
        ShardError: On Windows, which has no such locks.
    """

    def __init__(self, folder: str | Path, options: RemoteOptions) -> None:
        if sys.platform == "win32":
            raise ShardError("a folder of whole shards needs the file locks of Linux or macOS\nleave it out")
        self._folder, self._options = Path(folder), options

    def read(self, url: str, size: int, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` of a shard of ``size`` bytes, fetched if need be.

        Raises:
            ShardError: If it cannot be fetched, has another size, or is larger than the folder may be.
        """
        while True:
            path = self._whole(url, size)
            try:
                now = time.time_ns()  # what was used longest ago goes first
                os.utime(path, ns=(now, now))
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read(end - start)
            except FileNotFoundError:  # another process made room in between
                continue

    def _whole(self, url: str, size: int) -> Path:
        digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        name = f"{digest}-{re.sub(r'[^a-zA-Z0-9_.-]', '_', base_name(url))[-64:]}"
        path, part = self._folder / name, self._folder / f".{name}{_PART}"
        while not _has_size(path, size):
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as file:
                _lock(file, wait=True)
                if _is_at(file, part) and not _has_size(path, size):
                    self._fetch(url, size, file, part)
                    part.replace(path)
        return path

    def _fetch(self, url: str, size: int, file: IO[bytes], part: Path) -> None:
        """A whole shard into a file of which this process has the lock; none is left after an error."""
        try:
            file.truncate(0)
            self._make_room(url, size)
            fetch(url, part, self._options)
            if not _has_size(part, size):
                raise ShardError(
                    f"{url} has {part.stat().st_size} bytes, its index says {size}\n"
                    "`flashvsr shards index` makes the index anew"
                )
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _make_room(self, url: str, size: int) -> None:
        limit = self._options.cache_gib
        if limit is None:
            return
        room = limit * 2**30 - size
        if room < 0:
            raise ShardError(f"{url} has {size} bytes, more than cache_gib={limit:g} allows\nraise it")
        self._drop_abandoned()
        shards = []
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name) and (state := _state(path)) is not None:
                shards.append((state.st_mtime_ns, state.st_size, path))
        held = sum(length for _, length, _ in shards)
        for _, length, path in sorted(shards):
            if held <= room:
                return
            path.unlink(missing_ok=True)
            held -= length

    def _drop_abandoned(self) -> None:
        """Remove what killed processes left half fetched."""
        for part in self._folder.glob(f".*{_PART}"):
            if not _NAME.fullmatch(part.name[1 : -len(_PART)]) or _state(part) is None:
                continue
            with part.open("ab") as file:
                try:
                    _lock(file, wait=False)
                except BlockingIOError:
                    continue
                part.unlink(missing_ok=True)


def _lock(file: IO[bytes], *, wait: bool) -> None:
    """Lock a file until it is closed; a BlockingIOError if another process has it and this one does not wait."""
    import fcntl  # not on Windows

    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _has_size(path: Path, size: int) -> bool:
    state = _state(path)
    return state is not None and state.st_size == size


def _is_at(file: IO[bytes], path: Path) -> bool:
    """Whether an open file still has this name: its holder before may have renamed or removed it."""
    state = _state(path)
    return state is not None and os.path.samestat(os.fstat(file.fileno()), state)
