"""The stream: frames in any pieces, finished frames out, and all it takes to go on later."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from flashvsr.streaming.frames import Canvas, check_range, to_device
from flashvsr.streaming.noise import chunk_noise
from flashvsr.streaming.protocols import System


class Stream:
    """One video on its way through a system: push frames in any pieces, get finished frames back.

    N frames in give N frames out, for any N >= 1, at exactly ``round(scale * height)`` x ``round(scale * width)``.
    The output does not depend on how the frames were cut into pieces.

    *Space.* Frames are upsampled with :func:`~flashvsr.streaming.resize_bicubic`; for a scale other than 4 they are
    first resized by scale / 4, so that the model always does a 4x job. The target is extended at the bottom and the
    right to a legal size by mirroring (without repeating the border row; a target too small for its padding is
    mirrored back and forth) and the output is cropped back.

    *Time.* A chunk runs as soon as its frames are there: the first 21 output frames need 25 frames, each further 8
    need 8. ``finish`` repeats the last frame to fill the last chunks and drops what that adds. Only frames that wait
    for their chunk are held, at their own small size, so memory does not grow with the clip.

    Args:
        system: The model; see :mod:`flashvsr.streaming`.
        height: Height of the pushed frames, at least 16 pixels.
        width: Width of the pushed frames, at least 16 pixels.
        scale: Enlargement, at least 1; or the (height, width) to reach, which may stretch the picture.
        seed: Seed of the noise; see :func:`~flashvsr.streaming.chunk_noise`.
        noise: `[1, C, latents, H/8, W/8]` at the padded size, used instead of the seed's, chunk after chunk. It is
            not part of ``state_dict``: pass it again to go on.
        state: What ``state_dict`` returned: go on from there. The dictionary itself is left untouched.

    Raises:
        ValueError: If a size, the scale or the shape of ``noise`` is not usable, or ``state`` was saved with other
            settings.

    Attributes:
        output_size: (height, width) of the finished frames.
        padded_size: (height, width) the system works at.
        frames_in: Frames pushed so far.
        frames_out: Frames returned so far.
    """

    def __init__(
        self,
        system: System,
        *,
        height: int,
        width: int,
        scale: float | tuple[int, int] = 4,
        seed: int = 0,
        noise: Tensor | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._run_chunk: Callable[..., tuple[Tensor, Any]] = system.step  # takes options, too
        self._system = system
        self._geometry = system.geometry
        self._device = torch.device(getattr(system, "device", "cpu"))
        self._output_device = torch.device(getattr(system, "output_device", self._device))
        self._dtype: torch.dtype = getattr(system, "dtype", torch.float32)
        self._size = (height, width)
        pixels: torch.dtype = getattr(system, "pixel_dtype", self._dtype)
        self._canvas = Canvas(height, width, scale, self._geometry.multiple, self._device, pixels)
        self.output_size, self.padded_size = self._canvas.output_size, self._canvas.padded_size
        taken = inspect.signature(system.step).parameters
        self._step_options: dict[str, Any] = {"content": self.output_size} if "content" in taken else {}
        self._gives_parts = "on_frames" in taken
        self._wants_parts = bool(getattr(system, "in_parts", False))
        self._seed = seed
        self._noise = noise
        self._ahead: Future[Tensor] | None = None  # noise of the next chunk
        if noise is not None:
            self._check_noise(noise)

        self.frames_in = 0
        self.frames_out = 0
        self._chunk = 0
        self._finished = False
        self._waiting: Tensor | None = None  # [n, 3, h, w], frames of a chunk that is not complete
        self._last: Tensor | None = None  # [1, 3, h, w], what `finish` repeats
        self._state: Any = None
        self._settings = {
            "height": height,
            "width": width,
            "scale": list(scale) if isinstance(scale, tuple) else float(scale),
            "seed": seed,
            "noise": "from the seed" if noise is None else "given",
            **asdict(self._geometry),
        }
        if state is not None:
            self._restore(state)
        self._draw_ahead()

    def push(self, frames: Tensor, *, on_frames: Callable[[Tensor], object] | None = None) -> Tensor:
        """Add frames and return those that are finished.

        Args:
            frames: `[T, 3, h, w]`, uint8 or floating point in [0, 1], on any device; T may be 0.
            on_frames: Called with finished frames, slices of what is returned, as they come: four at a time from a
                system that can, else a chunk at a time. The first ones are there before the rest of their chunk is
                decoded.

        Returns:
            `[T', 3, H, W]`, the next 0..n output frames, in the dtype and range and on the device of ``frames``;
            frames on the first device of a system on several GPUs come back on its last, so that nothing waits.
            Bicubic overshoot and model output beyond the range are clamped.

        Raises:
            ValueError: If the shape, size or dtype is not what the stream was opened with or began with, or frames
                in floating point on the CPU are plainly not in [0, 1].
            RuntimeError: After ``finish``.
        """
        if self._finished:
            raise RuntimeError("this stream is finished; open another one with system.stream(...)")
        self._check_frames(frames)
        waiting = frames if self._waiting is None else torch.cat([self._waiting.to(frames.device), frames])
        if len(frames):
            self._last = frames[-1:].clone()
        self.frames_in += len(frames)
        return self._run(waiting, on_frames=on_frames)

    def finish(self) -> Tensor:
        """Return the frames still missing and close the stream.

        Returns:
            `[T', 3, H, W]` in the dtype and on the device of the last push, so that as many frames came out as went
            in. Without a single frame pushed: an empty uint8 tensor `[0, 3, H, W]`.

        Raises:
            RuntimeError: When called twice.
        """
        if self._finished:
            raise RuntimeError("this stream is finished already")
        self._finished = True
        missing = self.frames_in - self.frames_out
        if self._last is None or self._waiting is None:
            return torch.empty(0, 3, *self.output_size, dtype=torch.uint8)
        planned, chunk, needed = 0, self._chunk, 0
        while planned < missing:
            planned += self._geometry.output_frames(chunk)
            needed += self._geometry.lr_frames(chunk)
            chunk += 1
        padding = self._last.expand(max(0, needed - len(self._waiting)), -1, -1, -1)
        return self._run(torch.cat([self._waiting, padding])[:needed], limit=missing)

    def state_dict(self) -> dict[str, Any]:
        """Copy out all it takes to go on later: settings, counters, waiting frames and the system's state.

        Returns:
            A dictionary of CPU tensors, numbers, strings and None that ``torch.save`` writes and ``torch.load(...,
            weights_only=True)`` reads. The stream itself is not disturbed.

        Raises:
            TypeError: If the system's state holds something that cannot be saved.
        """
        return {
            "settings": dict(self._settings),
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "chunk": self._chunk,
            "finished": self._finished,
            "waiting": _copied(self._waiting, torch.device("cpu")),
            "last": _copied(self._last, torch.device("cpu")),
            "system": _copied(self._state, torch.device("cpu")),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        for name, ours in self._settings.items():
            theirs = saved["settings"].get(name)
            if theirs != ours:
                raise ValueError(
                    f"the saved stream has {name} = {theirs}, this one {ours}; open it with what it was begun with"
                )
        self.frames_in, self.frames_out = saved["frames_in"], saved["frames_out"]
        self._chunk, self._finished = saved["chunk"], saved["finished"]
        self._waiting = _copied(saved["waiting"], torch.device("cpu"))
        self._last = _copied(saved["last"], torch.device("cpu"))
        load_state = getattr(self._system, "load_state", None)
        if load_state is None or saved["system"] is None:
            self._state = _copied(saved["system"], self._device)  # a state may be used up by the step it goes into
        else:
            self._state = load_state(saved["system"])

    def _check_frames(self, frames: Tensor) -> None:
        if frames.ndim != 4 or frames.shape[1] != 3 or tuple(frames.shape[2:]) != self._size:
            height, width = self._size
            raise ValueError(f"frames must be [T, 3, {height}, {width}] in this stream, got {list(frames.shape)}")
        if frames.dtype != torch.uint8 and not frames.is_floating_point():
            raise ValueError(f"frames must be uint8, or floating point in [0, 1], got {frames.dtype}")
        if self._last is not None and frames.dtype != self._last.dtype:
            raise ValueError(f"this stream began with {self._last.dtype} frames, got {frames.dtype}: do not mix them")
        check_range(frames)

    def _check_noise(self, noise: Tensor) -> None:
        height, width = (pixels // self._geometry.latent_stride for pixels in self.padded_size)
        wanted = (1, self._geometry.latent_channels, height, width)
        if noise.ndim != 5 or (*noise.shape[:2], *noise.shape[3:]) != wanted:
            raise ValueError(
                f"noise must be [1, {wanted[1]}, latents, {height}, {width}] for this size, got {list(noise.shape)}"
            )

    def _run(
        self, frames: Tensor, limit: int | None = None, on_frames: Callable[[Tensor], object] | None = None
    ) -> Tensor:
        """Step through all complete chunks of ``frames``, keep the rest waiting, return at most ``limit`` frames."""
        chunks, outputs, needed = 0, 0, self._geometry.lr_frames(self._chunk)
        while needed <= len(frames):
            outputs += self._geometry.output_frames(self._chunk + chunks)
            chunks += 1
            needed += self._geometry.lr_frames(self._chunk + chunks)
        # Allocated outside inference mode, so that the caller owns ordinary tensors.
        count, there = outputs if limit is None else min(outputs, limit), self._output_device
        device = there if frames.device == self._device else frames.device
        out = frames.new_empty(count, 3, *self.output_size, device=device)
        start = done = 0
        for _ in range(chunks):
            stop = start + self._geometry.lr_frames(self._chunk)
            with torch.inference_mode():
                done += self._step(frames[start:stop], out[done:], on_frames)
            start = stop
        self._waiting = frames[start:].clone()  # a view would keep the caller's whole piece alive
        self.frames_out += done
        return out

    def _step(self, frames: Tensor, out: Tensor, on_frames: Callable[[Tensor], object] | None) -> int:
        """Run one chunk, write as many of its frames as fit into ``out`` and say how many those are."""
        lr = self._canvas.to_model(frames)
        noise = to_device(self._next_noise(), self._device).to(self._dtype)
        received = written = 0

        def finish(part: Tensor) -> None:
            nonlocal received, written
            received += part.shape[2]
            piece = out[written : written + part.shape[2]]
            self._canvas.to_public(part, piece)
            written += len(piece)
            if on_frames is not None and len(piece):
                on_frames(piece)

        in_parts = self._gives_parts and (on_frames is not None or self._wants_parts)
        options = {**self._step_options, "on_frames": finish} if in_parts else self._step_options
        result, self._state = self._run_chunk(lr, noise, self._state, **options)
        expected = (1, 3, self._geometry.output_frames(self._chunk), *self.padded_size)
        if not in_parts:
            if tuple(result.shape) != expected:
                raise ValueError(f"step returned frames of shape {list(result.shape)}, expected {list(expected)}")
            finish(result)
        elif received != expected[2]:
            raise ValueError(f"step gave on_frames {received} frames, expected {expected[2]}")
        self._chunk += 1
        self._draw_ahead()
        return written

    def _draw_ahead(self) -> None:
        """Draw noise in a thread while a GPU computes and its host queues work; a CPU gains nothing from it."""
        if self._device.type != "cpu" and self._noise is None and not self._finished:
            drawing = ThreadPoolExecutor(1, thread_name_prefix="flashvsr-noise")
            self._ahead = drawing.submit(chunk_noise, self._geometry, self._seed, self._chunk, self.padded_size)
            drawing.shutdown(wait=False)  # the thread ends with its noise

    def _next_noise(self) -> Tensor:
        if self._noise is None:
            ahead, self._ahead = self._ahead, None
            if ahead is not None:
                return ahead.result()
            return chunk_noise(self._geometry, self._seed, self._chunk, self.padded_size)
        latents = self._geometry.latents(self._chunk)
        if self._noise.shape[2] < latents.stop:
            raise ValueError(
                f"noise holds {self._noise.shape[2]} latent frames, but the stream has reached chunk {self._chunk}, "
                f"which needs {latents.stop}: inject more, or leave it out to draw from the seed"
            )
        return self._noise[:, :, latents.start : latents.stop]


def _copied(value: Any, device: torch.device) -> Any:
    """A deep copy of a (nested) state with its tensors on ``device``; objects become their ``state_dict()``."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {key: _copied(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item, device) for item in value)
    if hasattr(value, "state_dict"):
        return _copied(value.state_dict(), device)
    raise TypeError(
        f"a {type(value).__name__} in the system's state cannot be saved: give it a state_dict(), and the system a "
        "load_state(saved)"
    )
