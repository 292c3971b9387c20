"""Samples per second of the data path: decoding and cropping, degradation by part, in a worker and as a batch.

Seconds are CPU seconds of one core, everything in one thread: what a worker of the data loader spends on one sample,
whatever else the machine does. Where there is a GPU the batched degradation runs on it, in seconds of the clock.

    python benchmarks/data.py --out benchmarks/results/data_NAME.json
    python benchmarks/data.py --shards shards/train --sizes 33x256x256     # your own clips instead of the made one
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashvsr.data.clips import decode_clip
from flashvsr.data.degrade import BatchDegradation, Degradation, batch, clip
from flashvsr.data.degrade.blur import BlurWalk
from flashvsr.data.degrade.codec import CodecPass
from flashvsr.data.degrade.noise import NoiseWalk
from flashvsr.data.shards import ShardIndex

SOURCE = (300, 1080, 1920)
"""Frames, rows, columns of the made clip."""

LONG = 3.0
"""Seconds from which one run is enough."""

PARTS = ("blur", "resize", "noise", "JPEG", "codec")
_SHARED: dict[str, list[tuple[Any, str]]] = {
    "blur": [(BlurWalk, "__next__")],
    "noise": [(NoiseWalk, "apply")],
    "codec": [(CodecPass, "push"), (CodecPass, "finish")],
}
WORKER = _SHARED | {
    "blur": [*_SHARED["blur"], (clip, "apply_blur")],
    "resize": [(clip, "resize")],
    "JPEG": [(clip, "encode_jpeg")],
}
BATCH = _SHARED | {
    "blur": [*_SHARED["blur"], (batch, "apply_blur")],
    "resize": [(batch, "resize")],
    "JPEG": [(batch, "simulate_jpeg")],
}


@dataclass(frozen=True)
class Size:
    """Frames, rows and columns of a sample."""

    frames: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read ``33x256x256``."""
        return cls(*map(int, text.split("x")))

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


class Clock:
    """Seconds by part, of functions that are replaced while it runs; none of them calls another."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.parts = now, Counter[str]()

    @contextmanager
    def running(self, places: dict[str, list[tuple[Any, str]]]) -> Iterator[None]:
        """Watch functions, by part: an object and the name of its attribute."""
        with ExitStack() as stack:
            for part, functions in places.items():
                for owner, name in functions:
                    stack.enter_context(patch.object(owner, name, self._timed(part, getattr(owner, name))))
            yield

    def _timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = self.now()
            try:
                return function(*arguments, **options)
            finally:
                self.parts[part] += self.now() - start

        return call


def timed(call: Callable[[], Any], places: dict[str, list[tuple[Any, str]]], now: Callable[[], float]) -> Counter[str]:
    """Seconds of one call, under ``all``, by part, and the ``rest``."""
    clock = Clock(now)
    with clock.running(places):
        start = now()
        call()
        total = now() - start
    return Counter({"all": total, "rest": total - clock.parts.total(), **clock.parts})


def typical(
    calls: list[Callable[[], Any]], places: dict[str, list[tuple[Any, str]]], now: Callable[[], float], repeats: int
) -> dict[str, float]:
    """Mean over samples of the run with the median time among so many; a long one is not repeated."""
    chosen = []
    for call in calls:
        runs = [timed(call, places, now)]
        while len(runs) < repeats and runs[0]["all"] < LONG:
            runs.append(timed(call, places, now))
        chosen.append(sorted(runs, key=lambda run: run["all"])[(len(runs) - 1) // 2])
    return {part: fmean(run[part] for run in chosen) for part in ("all", *(PARTS if places else ()), "rest")}


@cache
def made_clip(key: int) -> bytes:
    """H.264 of a camera that moves over a texture, with grain, a key frame every ``key`` frames."""
    frames, height, width = SOURCE
    random, scene = np.random.default_rng(0), np.zeros((height, width + 3 * frames, 3), np.float32)
    for cells in (4, 12, 40, 120, 400):
        small = Image.fromarray(random.integers(0, 256, (cells, 2 * cells, 3), np.uint8))
        scene += np.asarray(small.resize((width + 3 * frames, height), Image.Resampling.BICUBIC), np.float32) / 5
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        settings = {"preset": "veryfast", "crf": "18", "x264-params": f"keyint={key}:scenecut=0:bframes=2"}
        stream = container.add_stream("libx264", rate=25, options=settings)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            grain = random.normal(0, 3, (height, width, 1)).astype(np.float32)
            pixels = (scene[:, 3 * number : 3 * number + width] + grain).clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def reader(media: bytes, shape: tuple[int, int, int], size: Size, seed: int) -> Callable[[], Tensor]:
    """Decodes a random place of a clip of that shape, as a worker does."""
    rng = np.random.default_rng(seed)
    room = (shape[0] - size.frames, shape[1] - size.height, shape[2] - size.width)
    start, top, left = (int(rng.integers(0, size + 1)) for size in room)
    return lambda: decode_clip(media, start, size.frames, (top, left), (size.height, size.width))


def sources(options: argparse.Namespace, size: Size) -> dict[str, list[Callable[[], Tensor]]]:
    """What reads each sample, by kind of source."""
    if options.shards is None:
        return {
            f"1080p, key frame every {key}": [
                reader(made_clip(key), SOURCE, size, seed) for seed in range(options.samples)
            ]
            for key in (12, 250)
        }
    index = ShardIndex([options.shards])
    fits = [
        entry
        for entry in index.entries
        if entry.kind == "video"
        and entry.frames >= size.frames
        and entry.height >= size.height
        and entry.width >= size.width
    ]
    if not fits:
        raise SystemExit(f"{options.shards} holds no video of at least {size}")
    entries = [fits[number * len(fits) // options.samples] for number in range(options.samples)]
    shapes = [(entry.frames, entry.height, entry.width) for entry in entries]
    found = enumerate(zip(entries, shapes, strict=True))
    return {"shards": [reader(index.read(entry), shape, size, number) for number, (entry, shape) in found]}


def measure(size: Size, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of one size of samples."""
    rows: list[dict[str, Any]] = []

    def add(what: str, seconds: dict[str, float]) -> None:
        print(f"{size} {what}: {seconds['all']:.2f} s", file=sys.stderr, flush=True)
        rows.append({"size": str(size), "what": what, "seconds": seconds})

    cpu = time.process_time
    for kind, readers in sources(options, size).items():
        add(f"decode + crop, {kind}", typical(readers, {}, cpu, options.repeats))
        clips = [read() for read in readers[: options.samples]]
    if not options.no_worker:
        worker = Degradation()
        calls = [lambda seed=seed, frames=frames: worker(frames, seed) for seed, frames in enumerate(clips)]
        add("degradation, worker", typical(calls, WORKER, cpu, options.repeats))
    if torch.cuda.is_available():
        calls = batches(clips, "cuda")
        calls[0]()  # warm up
        add("degradation, batch on GPU", typical(calls, BATCH, _synchronised, options.repeats))
    else:
        add("degradation, batch on CPU", typical(batches(clips, "cpu"), BATCH, cpu, options.repeats))
    return rows


def batches(clips: list[Tensor], device: str) -> list[Callable[[], Tensor]]:
    """The batched degradation of one clip each, so that its codec does not run beside other parts."""
    degrade = BatchDegradation(threads=1)
    placed = [frames.transpose(0, 1)[None].to(device) for frames in clips]
    return [
        lambda frames=frames, seed=seed: degrade(frames, torch.tensor([seed])) for seed, frames in enumerate(placed)
    ]


def _synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def show(rows: list[dict[str, Any]], steps: list[float]) -> str:
    """The tables in Markdown."""
    lines = [["sample", "what", "samples/s", "s", *PARTS, "rest"]]
    for row in rows:
        seconds = row["seconds"]
        shares = [f"{seconds[part] / seconds['all']:.0%}" if "blur" in seconds else "" for part in (*PARTS, "rest")]
        lines.append([row["size"], row["what"], f"{1 / seconds['all']:.3g}", f"{seconds['all']:.2f}", *shares])
    cores = [["sample", "source; path", "CPU s", *(f"step of {step:g} s" for step in steps)]]
    for (size, path), seconds in per_sample(rows).items():
        cores.append([size, path, f"{seconds:.2f}", *(f"{seconds / step:.1f}" for step in steps)])
    heading = "Cores for a GPU that takes one sample a step (CPU seconds of a sample / seconds of a step):"
    return f"{_table(lines)}\n\n{heading}\n\n{_table(cores)}"


def _table(lines: list[list[str]]) -> str:
    rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def per_sample(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """CPU seconds of a sample by size and path: in a worker, or with all but decoding and the codec on the GPU."""
    found: dict[tuple[str, str], float] = {}
    for size in dict.fromkeys(row["size"] for row in rows):
        own = {row["what"]: row["seconds"] for row in rows if row["size"] == size}
        (codec,) = (seconds["codec"] for what, seconds in own.items() if "batch" in what)
        for what, decode in own.items():
            if what.startswith("decode"):
                kind = what.partition(", ")[2]
                if "degradation, worker" in own:
                    found[size, f"{kind}; all in workers"] = decode["all"] + own["degradation, worker"]["all"]
                found[size, f"{kind}; degradation on the GPU"] = decode["all"] + codec
    return found


def processor() -> str:
    """The name of the CPU, and its widest vectors."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else 'unknown CPU'}, {torch.backends.cpu.get_cpu_capability()}"


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=Size.parse, default=[Size(33, 256, 256), Size(89, 768, 1280)])
    parser.add_argument("--samples", type=int, default=4, help="different samples of each size")
    parser.add_argument("--repeats", type=int, default=3, help="of each that takes under 3 s; the median counts")
    parser.add_argument(
        "--steps", nargs="+", type=float, default=[2.0, 5.0, 10.0, 20.0], help="seconds of a training step"
    )
    parser.add_argument("--no-worker", action="store_true", help="leave out the degradation in a worker, the slowest")
    parser.add_argument("--shards", help="folder of shards to read instead of the made clip")
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, busy = time.perf_counter(), time.process_time()
    rows = [row for size in options.sizes for row in measure(size, options)]
    share = (time.process_time() - busy) / (time.perf_counter() - start)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    head = {"cpu": processor(), "gpu": device, "torch": torch.__version__, "samples": options.samples}
    head |= {"repeats": options.repeats, "source": "made" if options.shards is None else "shards"}
    head |= {"cpu_share": round(share, 2)}
    print(f"{head['cpu']}, torch {torch.__version__}; this process had {share:.0%} of a core")
    print(show(rows, options.steps))
    if options.out:
        options.out.write_text(json.dumps(head | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
