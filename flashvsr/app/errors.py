"""What went wrong, in words for somebody who sees a page and no terminal."""

from __future__ import annotations

import torch

from flashvsr.upscale import ResumeError
from flashvsr.upscale.errors import is_disk_full
from flashvsr.video import VideoError


def explain(error: Exception) -> tuple[str, bool]:
    """Say what went wrong and what to do.

    Args:
        error: What a run or a preview raised.

    Returns:
        One or two sentences, and whether this is something that its user can put right. If not, it is a defect of the
        library and its traceback belongs into a report.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        return "out of memory. Choose a smaller scale, or close other programs that use the memory or the GPU.", True
    if is_disk_full(error):
        return "the disk is full. Free some space, or start the page with --folder on another disk.", True
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", True
    if isinstance(error, VideoError | ResumeError | ValueError | OSError):
        return ". ".join(line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), True
    return f"an unexpected error, {type(error).__name__}: {error}", False
