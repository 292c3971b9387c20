"""What is on the disk for good, and folders that one run at a time may use."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from flashvsr.upscale.errors import InUseError

LOCK = "lock"


def locked(folder: Path) -> BinaryIO:
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


def is_in_use(folder: Path) -> bool:
    """Whether a run has locked this folder."""
    try:
        locked(folder).close()
    except InUseError:
        return True
    return False


def delete(path: Path) -> None:
    """Delete a file or a folder with all it holds."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def to_disk(path: Path) -> None:
    """Wait until a file, or a folder and all it holds, would survive a power cut."""
    if path.is_dir():
        for inner in path.iterdir():
            to_disk(inner)
    flush(path)


def flush(path: Path) -> None:
    """Wait until this file, or the list of names in this folder, would survive a power cut."""
    if sys.platform == "win32" and path.is_dir():  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
