"""A stand-in model and small clips for the tests of `flashvsr.upscale`, importable by their child processes."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from flashvsr.streaming import Geometry, Stream
from flashvsr.video import VideoReader


class StandIn:
    """Gives back the upsampled frames plus a running mean of all frames so far, so that lost state shows.

    Args:
        seconds_per_step: How slow it is.
        error: What it raises, once, after ``steps`` steps.
        steps: See ``error``.
    """

    geometry = Geometry(multiple=16)

    def __init__(self, seconds_per_step: float = 0.0, *, error: BaseException | None = None, steps: int = 0) -> None:
        self.seconds_per_step = seconds_per_step
        self.error, self.steps = error, steps

    def step(self, lr: Tensor, noise: Tensor, state: dict | None) -> tuple[Tensor, dict]:
        time.sleep(self.seconds_per_step)
        self.steps -= 1
        if self.error is not None and self.steps < 0:
            raise self.error
        ahead = lr[:, :, :0] if state is None else state["ahead"]
        mean = torch.zeros(3) if state is None else state["mean"]
        frames = torch.cat((ahead, lr), 2)
        mean = 0.5 * mean + 0.5 * lr.mean((0, 2, 3, 4))
        tint = 0.2 * (mean + noise.mean())[:, None, None, None]
        return frames[:, :, :-4] + tint, {"ahead": frames[:, :, -4:].clone(), "mean": mean}

    def stream(self, **options) -> Stream:
        return Stream(self, **options)


RATE = Fraction(24000, 1001)


def write_clip(
    path: Path,
    frames: int = 60,
    *,
    size: tuple[int, int] = (32, 48),
    pixels: str = "yuv420p",
    codec: str = "libx264",
    audio: bool = True,
    jitter: int = 0,
) -> Path:
    """A clip at 23.976 frames per second whose every frame differs; ``jitter`` moves every third by so many ticks."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=RATE)
        video.height, video.width = size
        video.pix_fmt = pixels
        video.codec_context.time_base = Fraction(1, 24000)
        sound = container.add_stream("aac", rate=44100) if audio else None
        for number in range(frames):
            picture = np.full((*size, 3), (number * 3 % 256, 100, 255 - number * 2 % 256), np.uint8)
            picture[8:16, number % size[1]] = 255
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = number * 1001 + (jitter if number % 3 == 2 else 0), Fraction(1, 24000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            wave = np.sin(np.arange(int(44100 * frames / RATE)) * 0.05) * 8000
            samples = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
            samples.sample_rate, samples.pts = 44100, 0
            container.mux(sound.encode(samples))
            container.mux(sound.encode(None))
    return path


def read_frames(path: Path) -> tuple[Tensor, list[Fraction]]:
    """All frames `[T, 3, h, w]` and their times."""
    with VideoReader(path) as reader:
        frames = list(reader)
    return torch.stack([frame.pixels for frame in frames]), [frame.time for frame in frames]


def audio_packets(path: Path) -> list[bytes]:
    """The encoded audio, packet by packet."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def same_video(one: Path, other: Path) -> bool:
    """Whether two files show the same frames at the same times, bit for bit."""
    frames, times = read_frames(one)
    others, other_times = read_frames(other)
    return times == other_times and torch.equal(frames, others)
