"""What went wrong, in words for the person who waits for the file."""

from __future__ import annotations

import errno

import torch


class ResumeError(ValueError):
    """A partial folder that cannot be used: another run's, made by other settings, or damaged."""


class InUseError(ResumeError):
    """A partial folder that another run is using at the moment."""


def explain(error: Exception) -> str | None:
    """The message of an error that a file, an option or a machine can cause.

    Args:
        error: What a run raised.

    Returns:
        One or two lines: what is wrong and what to do. None for a defect of the library: show its traceback.
    """
    # PyTorch has its own class for an exhausted GPU, and a plain RuntimeError for exhausted main memory.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        detail = f" ({reason})" if reason else ""
        limit = "--gpu-gib with less than the GPU has, " if isinstance(error, torch.OutOfMemoryError) else ""
        options = f"{limit}a smaller --scale, --decoder tiny, --dtype bf16 or another --device"
        return f"out of memory{detail}: try {options}"
    if isinstance(error, OSError) and is_disk_full(error):
        return "the disk is full: free some space, or write to another disk; --no-resume needs less"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: check that the folder is there and may be written"
    if type(error) is RuntimeError or isinstance(error, NotImplementedError | RecursionError):
        return None
    return str(error)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, says that nothing more can be written."""
    while error is not None:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            return True
        error = error.__cause__
    return False
