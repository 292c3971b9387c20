"""Joining encoded segments, and copying audio and subtitles beside them, without re-encoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def join_segments(
    segments: Sequence[Path], target: Path, *, source: str | Path | None = None, format: str = "auto"
) -> list[str]:
    """Concatenate segments written by `VideoWriter` and add the source's audio and subtitles.

    Nothing is re-encoded. The file is written at ``target`` itself: pass a temporary name with the right ending
    beside the final one (``clip.partial/joined.mp4``) and rename it when this returns; on an error it is deleted.

    Args:
        segments: Files in order, each its own encode with the same settings (so each starts with a key frame), whose
            times continue: segment k+1 starts after the last frame of segment k.
        target: Where to write; its ending picks the container unless ``format`` does. MP4 gets its index in front.
        source: The file to copy tracks from, None (or anything that is not a file: images, ``example:``) for pictures only.
        format: As for `VideoWriter`.

    Returns:
        Warning lines, one per track that the container does not take.

    Raises:
        VideoError: No segments, segments of different codecs or sizes, an unreadable segment, disk full.
    """
    raise NotImplementedError
