"""Damaged files: each is read, or refused in a line; none crashes, hangs or loses frames without a word."""

from __future__ import annotations

import json
import queue
import random
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

KINDS = {
    "mp4": "libx264",
    "mkv": "libx264",
    "ts": "libx264",
    "avi": "mpeg4",
    "gif": "gif",
    "webm": "libvpx-vp9",
    "png": "png",
}
FRAMES = 20
PER_KIND = [15, pytest.param(43, marks=pytest.mark.slow)]  # 301 files take half a minute
HANG = 20  # seconds without a finished file

# Reads the files named on stdin one by one and says what came of each; stdout is read with a watchdog.
READ = """
import json, sys
from pathlib import Path
from fractions import Fraction
import torch
from flashvsr.video import VideoError, VideoReader, VideoWriter
for line in sys.stdin:
    path, result = Path(line.strip()), Path(line.strip() + ".out.mkv")
    frames, error, warnings = 0, None, []
    try:
        with VideoReader(path, fps=Fraction(25)) as reader:
            size = dict(width=reader.info.width, height=reader.info.height)
            with VideoWriter(result, info=reader.info, codec="rawvideo", copy_tracks_from=reader, **size) as writer:
                for frame in reader:
                    writer.write(frame.pixels, frame.time)
                    frames += 1
            warnings = [*reader.warnings, *writer.warnings]
    except VideoError as failure:
        error = str(failure)
    left = result.exists()
    result.unlink(missing_ok=True)
    print(json.dumps([path.name, frames, error, warnings, left]), flush=True)
"""


def original(path: Path, codec: str) -> bytes:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = {"gif": "rgb8", "png": "rgb24"}.get(codec, "yuv420p")
        rng = np.random.default_rng(5)
        for number in range(1 if codec == "png" else FRAMES):
            picture = rng.integers(0, 255, (48, 64, 3), np.uint8) // 4 + 8 * number
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Flipped bits, zeros, or bytes cut out, put in, doubled or missing at the end."""
    at, length = rng.randrange(len(data)), rng.choice((1, 7, 64, 500))
    kind = rng.randrange(6)
    if kind == 0:
        return data[: max(1, at)]
    if kind == 1:
        return data[:at] + data[at + length :]
    if kind == 2:
        return data[:at] + rng.randbytes(length) + data[at:]
    if kind == 3:
        return data[:at] + bytes(length) + data[at + length :]
    if kind == 4:
        return data[:at] + data[max(0, at - length) : at] + data[at:]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 4, 20))):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.fixture(scope="module", params=PER_KIND)
def outcomes(tmp_path_factory, request):
    """What came of each file: name, frames, error, warnings, and whether a file was left after it."""
    folder = tmp_path_factory.mktemp("fuzz")
    names = []
    for ending, codec in KINDS.items():
        data = original(folder / f"whole.{ending}", codec)
        for number in range(request.param):
            path = folder / f"{number:02d}.{ending}"
            path.write_bytes(mutated(data, random.Random(f"{ending} {number}")))
            names.append(path)
    return names, *read_all(names)


def read_all(names: list[Path]) -> tuple[dict[str, list], list[str], str]:
    """Outcomes by name, the files that crashed or hung the reader, and what it wrote to stderr."""
    found, bad, complaints = {}, [], ""
    waiting = list(names)
    while waiting:
        process = subprocess.Popen(
            [sys.executable, "-c", READ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines: queue.Queue[str] = queue.Queue()
        thread = threading.Thread(target=lambda source=process.stdout, put=lines.put: [put(line) for line in source])
        thread.start()
        allowed = 3 * HANG  # the first file waits for imports
        while waiting:
            path = waiting.pop(0)
            try:
                process.stdin.write(f"{path}\n")
                process.stdin.flush()
                name, *outcome = json.loads(lines.get(timeout=allowed))
            except (queue.Empty, BrokenPipeError):
                bad.append(path.name)
                break
            found[name] = outcome
            allowed = HANG
        if bad and process.poll() is None and path.name == bad[-1]:
            process.kill()
        process.stdin.close()
        thread.join()
        complaints += process.stderr.read()
        process.wait()
    return found, bad, complaints


def stated_frames(path: Path) -> int:
    """Frames of the picture that a file states; 0 when it does not say, or cannot be opened."""
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stated = container.streams.video[0].frames if container.streams.video else 0
            return stated or 25 * (container.duration or 0) // 1_000_000
    except av.FFmpegError:
        return 0


def test_no_damaged_file_crashes_or_hangs_the_reader_or_is_a_traceback(outcomes):
    names, found, bad, complaints = outcomes
    assert bad == []
    assert len(found) == len(names) >= 100
    assert "Traceback" not in complaints


def test_every_refusal_is_a_message_and_leaves_no_file(outcomes):
    refused = {name: outcome for name, outcome in outcomes[1].items() if outcome[1] is not None}
    assert len(refused) > len(outcomes[0]) // 10
    for name, (_, error, _, left) in refused.items():
        assert name in error or "out.mkv" in error
        assert len(error.splitlines()) <= 3
        assert not left


def test_many_damaged_files_are_read_all_the_same(outcomes):
    assert sum(outcome[1] is None and outcome[0] >= 1 for outcome in outcomes[1].values()) > len(outcomes[0]) // 3


@pytest.mark.parametrize("ending", ["mp4", "mkv", "webm", "avi"])
def test_frames_that_a_file_states_are_not_lost_without_a_word(outcomes, ending):
    for path in outcomes[0]:
        frames, error, warnings, _ = outcomes[1][path.name]
        if path.suffix == f".{ending}" and error is None and not warnings:
            assert frames >= min(FRAMES, stated_frames(path)), path.name


UPSCALE = """
import sys
import flashvsr.upscale
from flashvsr.cli import main
from tests.cli.test_upscale import Nearest, run_with
flashvsr.upscale.upscale_file = run_with(Nearest())
for path in sys.argv[1:]:
    print(path, main(["upscale", path, path + ".out.mkv", "--quiet"]), flush=True)
"""


def test_the_command_upscales_a_damaged_file_or_refuses_it_in_a_line_and_leaves_nothing(outcomes):
    paths = [path for path in outcomes[0] if path.stem in ("00", "01", "02") and path.suffix != ".png"]
    run = subprocess.run(
        [sys.executable, "-c", UPSCALE, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=HANG * len(paths),
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0 and "Traceback" not in run.stderr, run.stderr
    status = dict(line.split() for line in run.stdout.splitlines())
    assert set(status) == set(map(str, paths)) and set(status.values()) == {"0", "1"}
    for path, code in status.items():
        assert Path(f"{path}.out.mkv").exists() == (code == "0"), path
