"""What a stream needs of a model, and what others need of a stream: structural types, nothing to inherit from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from flashvsr.streaming.geometry import Geometry


class System(Protocol):
    """A model that a stream can run; :mod:`flashvsr.streaming` says what else it may have."""

    @property
    def geometry(self) -> Geometry:
        """Chunk lengths and legal sizes."""

    def step(self, lr: Tensor, noise: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Process one chunk.

        Args:
            lr: `[1, 3, T, H, W]` in [-1, 1] at the padded target size.
            noise: `[1, C, t, H/8, W/8]`, standard normal.
            state: What the previous chunk returned, consumed; None at the start.

        Returns:
            Frames `[1, 3, T', H, W]` in [-1, 1], and the new state.
        """


class FrameStream(Protocol):
    """One video on its way through a model, as :class:`Stream` is."""

    def push(self, frames: Tensor, *, on_frames: Callable[[Tensor], object] | None = None) -> Tensor:
        """Add frames `[T, 3, h, w]` and return those that are finished, `[T', 3, H, W]`."""

    def finish(self) -> Tensor:
        """Return the frames still missing and close the stream."""

    def state_dict(self) -> dict[str, Any]:
        """All it takes to go on later."""


class StreamingModel(Protocol):
    """A model that opens streams by itself, as :class:`~flashvsr.models.FlashVSR` does."""

    def stream(
        self,
        *,
        height: int,
        width: int,
        scale: float | tuple[int, int] = 4,
        seed: int = 0,
        state: dict[str, Any] | None = None,
    ) -> FrameStream:
        """Start a stream over frames of a size, or go on with a saved one."""
