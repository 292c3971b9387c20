"""A stream over a clip that is held in memory."""

from __future__ import annotations

from torch import Tensor

from flashvsr.streaming.protocols import System
from flashvsr.streaming.stream import Stream


def upscale(system: System, video: Tensor, *, scale: float = 4, seed: int = 0, noise: Tensor | None = None) -> Tensor:
    """Upscale a whole clip that is held in memory.

    Args:
        system: The model; see :mod:`flashvsr.streaming`.
        video: `[T, 3, h, w]`, uint8 or floating point in [0, 1]; T may be 0.
        scale: Enlargement, at least 1.
        seed: Seed of the noise.
        noise: Noise to use instead; see :class:`Stream`.

    Returns:
        `[T, 3, round(scale * h), round(scale * w)]` in the dtype, range and device of ``video``. Beyond this tensor,
        memory is that of one chunk.

    Raises:
        ValueError: As :class:`Stream` and its ``push``.
    """
    if video.ndim != 4:
        raise ValueError(f"video must be [T, 3, h, w], got {list(video.shape)}")
    stream = Stream(system, height=video.shape[2], width=video.shape[3], scale=scale, seed=seed, noise=noise)
    out = video.new_empty(len(video), 3, *stream.output_size)
    done = 0
    for piece in [*video.split(system.geometry.next_frames), None]:
        frames = stream.finish() if piece is None else stream.push(piece)
        out[done : done + len(frames)] = frames
        done += len(frames)
    return out
