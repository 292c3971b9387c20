"""A stream over a clip that is held in memory."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from flashvsr.streaming.frames import check_range, to_device
from flashvsr.streaming.protocols import System
from flashvsr.streaming.stream import Stream

AHEAD = 2
"""Chunks that are queued on several GPUs before the frames of the first one are fetched."""


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
    device = torch.device(getattr(system, "device", "cpu"))
    several = torch.device(getattr(system, "output_device", device)) != device
    check_range(video)
    finished: deque[Tensor] = deque()
    done = 0
    for piece in [*video.split(system.geometry.next_frames), None]:
        pushed = to_device(piece, device) if several and piece is not None else piece
        finished.append(stream.finish() if pushed is None else stream.push(pushed))
        # To fetch frames is to wait for them: of several GPUs that compute at a time, only those of the one before.
        while finished and (piece is None or len(finished) > (AHEAD if several else 0)):
            frames = finished.popleft()
            out[done : done + len(frames)] = frames
            done += len(frames)
    return out
