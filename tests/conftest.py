"""Where tests find golden tensors, real clips and small made ones, and which tests need a GPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.data.shard_writer import ShardRules, make_shards
from flashvsr.video import VideoInfo, VideoWriter

EXTRACT = Path(__file__).parent / "golden"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU: what this test checks was not checked here"))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Load a file of golden tensors: from the full set in FLASHVSR_GOLDEN, or from the extract beside the tests."""

    def load(name: str) -> Any:
        folder = Path(os.environ.get("FLASHVSR_GOLDEN", EXTRACT))
        return torch.load(folder / name, weights_only=True)

    return load


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real clips and photographs that FLASHVSR_DATA names."""
    folder = os.environ.get("FLASHVSR_DATA")
    if not folder:
        pytest.skip("FLASHVSR_DATA is not set: real clips (HDR, rotated, .ts, .264) were not read")
    return Path(folder)


@pytest.fixture
def picture() -> Callable[..., torch.Tensor]:
    """A smooth uint8 picture with a moving bar, another for every number."""

    def make(number: int, height: int = 48, width: int = 64) -> torch.Tensor:
        noise = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(number))
        base = torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0]
        bar = ((torch.arange(width) + 3 * number) % 16 < 8).float()
        return ((base * 0.6 + 0.3 * bar) * 255).to(torch.uint8)

    return make


@pytest.fixture
def write_clip(picture) -> Callable[..., Path]:
    """A video without sound, at the times given."""

    def write(path: Path, times: Sequence[Fraction], info: VideoInfo | None = None, **options) -> Path:
        info = info or VideoInfo(64, 48, Fraction(25), Fraction(1, 90000))
        with VideoWriter(path, width=info.width, height=info.height, info=info, **options) as writer:
            for number, time in enumerate(times):
                writer.write(picture(number, info.height, info.width), time)
        return path

    return write


@pytest.fixture
def write_av() -> Callable[..., Path]:
    """A video with sound, a subtitle or both, written with PyAV directly so that starts can differ."""

    def write(
        path: Path,
        *,
        frames: int = 25,
        audio: str | None = "aac",
        video_start: Fraction = Fraction(0),
        audio_start: Fraction = Fraction(0),
        pixel_format: str = "yuv420p",
        codec: str = "libx264",
        format: str | None = None,
    ) -> Path:
        with av.open(str(path), "w", format=format) as container:
            video = container.add_stream(codec, rate=25)
            video.width, video.height, video.pix_fmt = 64, 48, pixel_format
            if codec != "mpeg2video":  # which takes the usual rates only
                video.codec_context.time_base = Fraction(1, 1000)
            sound = container.add_stream(audio, rate=48000) if audio else None
            if sound is not None:
                sound.codec_context.layout = "mono"
            for number in range(frames):
                level = number * 8 % 256
                if pixel_format == "gray":  # which swscale cannot make limited
                    level = 16 + level * 219 // 255
                image = np.full((48, 64, 3), level, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                    format=pixel_format, src_color_range=2, dst_color_range=2 if "j" in pixel_format else 1
                )
                frame.pts, frame.time_base = 40 * number + int(video_start * 1000), Fraction(1, 1000)
                container.mux(video.encode(frame))
                if sound is not None:
                    container.mux(sound.encode(_tone(number, audio_start, sound.codec_context.format.name)))
            container.mux(video.encode(None))
            if sound is not None:
                container.mux(sound.encode(None))
        return path

    return write


def _tone(number: int, start: Fraction, sample_format: str) -> av.AudioFrame:
    phase = (np.arange(1920) + 1920 * number) * 2 * np.pi * 440 / 48000
    tone = np.sin(phase)[None] * 0.5
    samples = {
        "fltp": lambda: tone.astype(np.float32),
        "s16": lambda: (tone * 32767).astype(np.int16),
        "u8": lambda: (tone * 127 + 128).astype(np.uint8),
    }[sample_format]()
    frame = av.AudioFrame.from_ndarray(samples, format=sample_format, layout="mono")
    frame.sample_rate, frame.time_base = 48000, Fraction(1, 48000)
    frame.pts = 1920 * number + int(start * 48000)
    return frame


@pytest.fixture
def sources(tmp_path, write_clip) -> Path:
    """A folder of three videos and four images."""
    folder = tmp_path / "sources"
    (folder / "video").mkdir(parents=True)
    for number, frames in enumerate((12, 30, 5)):
        write_clip(
            folder / "video" / f"clip{number}.mp4",
            [Fraction(time, 25) for time in range(frames)],
            VideoInfo(128, 96, Fraction(25), Fraction(1, 90000)),
        )
    for number in range(4):
        noise = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(number))
        pixels = torch.nn.functional.interpolate(noise, (96, 128), mode="bicubic").clamp(0, 1)[0]
        Image.fromarray((pixels.permute(1, 2, 0) * 255).byte().numpy()).save(folder / f"photo.{number}.png")
    return folder


@pytest.fixture
def shards(sources, tmp_path) -> Path:
    """What is in ``sources``, in shards."""
    make_shards([sources], tmp_path / "shards", ShardRules(max_mib=0.06))
    return tmp_path / "shards"


@pytest.fixture(scope="session")
def run_processes() -> Callable[..., None]:
    """Run a script as each of `world` processes that train together, and wait for all: ``run_processes(script, out)``.

    Scripts import what they share as ``tests.processes``.
    """

    def run(script: Path, *arguments: object, world: int = 2) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        common = {
            "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1,
            "PYTHONPATH": EXTRACT.parent.parent,
        }  # fmt: skip
        command = [sys.executable, str(script), *(str(argument) for argument in arguments)]
        processes = []
        for rank in range(world):
            where = {key: str(value) for key, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            processes.append(subprocess.Popen(command, env={**os.environ, **where}, **options))
        try:
            outputs = [process.communicate(timeout=300)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert all(process.returncode == 0 for process in processes), "\n".join(outputs)[-4000:]

    return run


@pytest.fixture
def assert_trains_like_one_process(run_processes, tmp_path) -> Callable[..., None]:
    """Run a script that ends with ``processes.save_changes`` as one process and as two, which change the same."""

    def check(script: Path) -> None:
        one, two = tmp_path / "one.pt", tmp_path / "two.pt"
        run_processes(script, one, world=1)
        run_processes(script, two, world=2)
        expected, found = (torch.load(file, weights_only=True) for file in (one, two))
        names = {run.split()[0] for run in expected}
        assert set(found) == {f"{name} {strategy}" for name in names for strategy in ("ddp", "fsdp2")}
        for run, changes in found.items():
            alone = expected[f"{run.split()[0]} auto"]
            assert changes.keys() == alone.keys()
            assert sum(change.any().item() for change in alone.values()) > 4
            for key, change in alone.items():
                error = (changes[key] - change).norm()
                assert error <= 1e-3 * change.norm() + 1e-6, f"{run}, {key}: {error} of {change.norm()}"

    return check
