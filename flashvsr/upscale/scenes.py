"""Streams that start anew at scene cuts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import torch

from flashvsr.streaming import FrameStream
from flashvsr.video import REMEMBERED, Marked, VideoFrame, mark_cuts


class Scenes:
    """A model's streams over one video: a single one, or one for each scene.

    Args:
        open_stream: Opens a stream at its start, or in a state.
        look: Whether cuts are looked for.
        state: What `state_dict` gave where an earlier run ended; None at the start of the video.
        watch: Shown every frame that is read.

    Attributes:
        stream: The one of the scene at hand.
    """

    def __init__(
        self,
        open_stream: Callable[[dict[str, Any] | None], FrameStream],
        *,
        look: bool,
        state: dict[str, Any] | None = None,
        watch: Callable[[VideoFrame], None] | None = None,
    ) -> None:
        self._open = open_stream
        self._watch = watch
        self.look = look
        self.stream = open_stream(None if state is None else state["stream"])
        self._thumbnails: deque[torch.Tensor] = deque(() if state is None else state["thumbnails"])

    def mark(self, frames: Iterable[VideoFrame]) -> Iterable[Marked]:
        """The frames, with scene cuts marked where they are looked for."""
        watched = frames if self._watch is None else map(self._seen, frames)
        return mark_cuts(watched, tuple(self._thumbnails)) if self.look else map(Marked, watched)

    def _seen(self, frame: VideoFrame) -> VideoFrame:
        if self._watch is not None:
            self._watch(frame)
        return frame

    def end_scene(self) -> torch.Tensor:
        """Start a stream anew, and give the frames that the one before had left."""
        left = self.stream.finish()
        self.stream = self._open(None)
        return left

    def remember(self, marked: Marked, held: int) -> None:
        """Keep what cuts after this frame are judged by, when the stream holds so many frames, with this one."""
        if marked.thumbnail is not None:
            self._thumbnails.append(marked.thumbnail)
        while len(self._thumbnails) > REMEMBERED + held:
            self._thumbnails.popleft()

    def state_dict(self, held: int) -> dict[str, Any]:
        """All it takes to go on, for a run that reads the frames that the stream holds once more."""
        before = list(self._thumbnails)[: max(0, len(self._thumbnails) - held)]
        return {"stream": self.stream.state_dict(), "thumbnails": before[-REMEMBERED:]}
