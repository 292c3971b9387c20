"""The private folder of a page: uploads and results live here, and nothing of them outlives the page."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO, Self

PREFIX = "flashvsr-app-"
LOCK = "lock"


class WorkFolder:
    """A folder that only this user can read, deleted at the end. A context manager.

    A page that was killed cannot delete its folder. The next one does, before it makes its own: a folder whose lock
    nobody holds is such a leftover.

    Args:
        parent: Where the folder is made; None takes the system's folder for temporary files.

    Attributes:
        path: The folder.
        uploads: Where the web server puts files that arrive.
        files: Where accepted files are, each in a folder of its own, with their results.
        swept: Folders of earlier pages that were deleted.

    Raises:
        FileNotFoundError: If ``parent`` does not exist.
    """

    def __init__(self, parent: str | Path | None = None) -> None:
        above = Path(parent or tempfile.gettempdir())
        if not above.is_dir():
            raise FileNotFoundError(f"the folder {above} does not exist: create it, or choose another")
        self.swept = sweep(above)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above)).resolve()
        lock = _lock(self.path / f"{LOCK}.new")
        assert lock is not None, "nobody knows of this folder yet"
        if sys.platform != "win32":  # there an open file cannot be renamed, nor deleted: being open is the lock
            (self.path / f"{LOCK}.new").rename(self.path / LOCK)
        self._held: BinaryIO = lock
        self.uploads, self.files = self.path / "uploads", self.path / "files"
        self.uploads.mkdir()
        self.files.mkdir()

    def close(self) -> None:
        """Delete the folder and all it holds. Safe to call twice."""
        self._held.close()
        shutil.rmtree(self.path, ignore_errors=True)  # what a dying thread still writes is swept by the next page

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sweep(parent: Path) -> list[Path]:
    """Delete what pages of this user that were killed have left in a folder.

    Args:
        parent: Where work folders are made.

    Returns:
        The folders deleted.
    """
    swept = []
    for folder in sorted(parent.glob(f"{PREFIX}*")):
        locks = [folder / LOCK, folder / f"{LOCK}.new"]
        found = next((lock for lock in locks if lock.is_file()), None)
        if folder.is_symlink() or found is None or not _is_ours(folder):
            continue
        held = _lock(found)
        if held is not None:
            held.close()
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(folder)
    return swept


def _is_ours(folder: Path) -> bool:
    return sys.platform == "win32" or folder.stat().st_uid == os.getuid()


def _lock(path: Path) -> BinaryIO | None:
    """Hold a lock until the file is closed or the process dies; None if another process holds it."""
    if sys.platform == "win32":
        try:
            path.unlink(missing_ok=True)
        except PermissionError:
            return None
        return path.open("wb")
    import fcntl

    lock = path.open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
