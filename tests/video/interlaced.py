"""Clips whose frames are made of fields, for tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = Fraction(25)
SIZE = (96, 128)


def moments(count: int, *, still: bool = False) -> list[np.ndarray]:
    """Gray pictures of a smooth texture that moves by two pixels to the right from one to the next."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    pictures = []
    for number in range(count):
        x = columns - (0 if still else 2 * number)
        texture = 128 + 60 * np.sin(x / 3 + rows / 11) + 40 * np.sin(x / 7 - rows / 5)
        pictures.append(texture.astype(np.uint8))
    return pictures


def woven(pictures: list[np.ndarray], first: str = "top") -> list[np.ndarray]:
    """A frame of the fields of each two pictures."""
    frames = []
    for early, late in zip(pictures[::2], pictures[1::2], strict=True):
        top, bottom = (early, late) if first == "top" else (late, early)
        frame = top.copy()
        frame[1::2] = bottom[1::2]
        frames.append(frame)
    return frames


def pulled_down(pictures: list[np.ndarray], first: str = "top") -> list[np.ndarray]:
    """Five frames of video for four of film."""
    fields = [picture for number, picture in enumerate(pictures) for _ in range(2 + number % 2)]
    return woven(fields[: len(fields) // 2 * 2], first)


def write(
    path: Path, frames: list[np.ndarray], *, flagged: str | None = None, rate: Fraction = RATE, timecode: str = ""
) -> Path:
    """A clip with sound as long as its pictures; ``flagged``: None says progressive."""
    params = {None: "", "top": "tff=1", "bottom": "bff=1"}[flagged]
    options = {"qp": "0", "preset": "ultrafast", "x264-params": params}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape, "yuv420p"
        if timecode:
            stream.metadata["timecode"] = timecode
        sound = container.add_stream("pcm_s16le", rate=8000)
        sound.layout = "mono"
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        samples = av.AudioFrame.from_ndarray(
            np.zeros((1, int(8000 * len(frames) / rate)), np.int16), format="s16", layout="mono"
        )
        samples.sample_rate, samples.pts = 8000, 0
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    return path
