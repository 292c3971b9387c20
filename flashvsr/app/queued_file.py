"""One file of the page: how it is upscaled, where it is on its way, and what has come of it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from flashvsr.app.uploads import Upload
from flashvsr.upscale import ClipOptions
from flashvsr.video import VideoInfo


class State(StrEnum):
    """Where a file is on its way."""

    READY = "ready"
    WAITING = "waiting"
    RUNNING = "running"
    STOPPED = "stopped"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Settings:
    """How a file is upscaled.

    Attributes:
        model: One of the page's models, by name.
        size: An enlargement of 1 to 4 such as ``"4x"``, or a height such as ``"1080p"``.
        container: Ending of the video that is made, such as ``"mp4"``; pictures become PNG.
        detail: From 0, only what the file shows, to 1, all that the model adds.

    Raises:
        ValueError: If the size or the container is none of these, or the detail is out of range.
    """

    model: str = "nano"
    size: str = "4x"
    container: str = "mp4"
    detail: float = 1.0

    def __post_init__(self) -> None:
        scaled, high = re.fullmatch(r"([1-4](\.\d+)?)x", self.size), re.fullmatch(r"(\d{2,4})p", self.size)
        if not high and not (scaled and float(scaled[1]) <= 4):
            raise ValueError(f"the size is {self.size}: expected 1x to 4x, or a height such as 1080p")
        if self.container not in ("mp4", "mkv", "mov", "webm"):
            raise ValueError(f"the container is {self.container}: expected mp4, mkv, mov or webm")
        if not 0 <= self.detail <= 1:
            raise ValueError(f"the detail is {self.detail}: expected 0 to 1")

    @property
    def scale(self) -> float:
        """The enlargement; 4 where a height is asked for."""
        return float(self.size[:-1]) if self.size.endswith("x") else 4.0

    @property
    def clip(self) -> ClipOptions:
        """The height to reach, if there is one."""
        return ClipOptions(height=int(self.size[:-1]) if self.size.endswith("p") else None)

    def target(self, upload: Upload) -> tuple[int, int]:
        """Height and width of the result.

        Raises:
            ValueError: If that is smaller than the file.
        """
        target = self.clip.target(VideoInfo(upload.width, upload.height, None), self.scale)
        if isinstance(target, tuple):
            return target
        return round(target * upload.height), round(target * upload.width)


@dataclass
class QueuedFile:
    """One file and what has come of it.

    Attributes:
        number: Which one it is, from 1.
        upload: The file that came in.
        settings: How it is upscaled; None before it was first started.
        state: Where it is on its way.
        target: Height and width of the result; None before it was first started.
        done: Frames finished.
        total: Estimated number of frames; None when unknown.
        fps: Frames per second of the run; None before any frame.
        log: What happened, in words, one line each.
        trace: The traceback of an unexpected error, for a report; empty otherwise.
        output: The result; None until it is done.
    """

    number: int
    upload: Upload
    settings: Settings | None = None
    state: State = State.READY
    target: tuple[int, int] | None = None
    done: int = 0
    total: int | None = None
    fps: float | None = None
    log: list[str] = field(default_factory=list)
    trace: str = ""
    output: Path | None = None

    @property
    def seconds_left(self) -> float | None:
        """Estimated time to the end; None when unknown."""
        if not self.fps or not self.total:
            return None
        return max(self.total - self.done, 0) / self.fps

    def say(self, line: str) -> None:
        """Add a line to the log."""
        self.log.append(f"{time.strftime('%H:%M:%S')}  {line}")
