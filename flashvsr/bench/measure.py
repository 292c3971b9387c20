"""Speed and memory of each part of a system, and how far each is from what the hardware allows."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.bench.operations import count_operations, parts_of
from flashvsr.models.decoder_system import DecoderSystem
from flashvsr.models.dit import VideoDiT
from flashvsr.models.parallel import Stage
from flashvsr.models.system import FlashVSR
from flashvsr.streaming import Stream

WARM_UP, WARM_UP_GPU = 3, 8
"""Steady chunks before those that are timed; on a GPU some of the first are recorded as graphs."""


@dataclass(frozen=True)
class PartResult:
    """One part of one steady chunk.

    Attributes:
        name: Of the part.
        milliseconds: Median over the timed chunks.
        teraflops: Operations it needs, 10^12; attention counts the kept blocks only. 0 when it has none to speak of.
        floor_milliseconds: The time these operations take at the matrix rate measured in the same run.
        peak_gib: Most memory allocated on a GPU while it ran, weights and state of all parts included, but not what a
            CUDA graph works in; 0 elsewhere.
    """

    name: str
    milliseconds: float
    teraflops: float
    floor_milliseconds: float
    peak_gib: float


@dataclass(frozen=True)
class BenchResult:
    """What :func:`bench` measured.

    Attributes:
        device: Name of the device.
        size: Output height and width.
        frames_per_second: Output frames over time in steady chunks.
        cold_first_frames_ms: From the first push to the first output frame in a process new to the model.
        first_frames_ms: The same once kernels are compiled and memory is allocated.
        first_chunk_ms: Likewise to the last frame of the first chunk.
        chunk_ms: Median time of a steady chunk: 8 frames, or 4 with only a decoder.
        parts: The parts of a steady chunk.
        late_over_early: Median time of the last quarter of the steady chunks over that of the first: 1 when time does
            not grow with the length of a stream.
        paths: What ran, of :meth:`~flashvsr.models.FlashVSR.paths`.
        peak_gib: Most memory reserved by the allocator on a GPU, loading included; of several the most of any. 0
            elsewhere.
        peaks_gib: The same of every GPU, in the order in which a chunk passes them.
        matrix_tflops: Matrix product rate measured in this run, for the floors.
    """

    device: str
    size: tuple[int, int]
    frames_per_second: float
    cold_first_frames_ms: float
    first_frames_ms: float
    first_chunk_ms: float
    chunk_ms: float
    late_over_early: float
    paths: dict[str, str]
    parts: list[PartResult]
    peak_gib: float
    peaks_gib: list[float]
    matrix_tflops: float

    def table(self) -> str:
        """The figures as a Markdown table with a line of summary on top."""
        height, width = self.size
        lines = [
            f"{height}x{width} on {self.device}: {self.frames_per_second:.2f} frames/s, first frames after "
            f"{self.first_frames_ms:.0f} ms (cold {self.cold_first_frames_ms:.0f} ms; the whole first chunk "
            f"{self.first_chunk_ms:.0f} ms), peak {' and '.join(f'{peak:.2f}' for peak in self.peaks_gib)} GiB, "
            f"matrix rate {self.matrix_tflops:.1f} TFLOP/s",
            f"time of the last chunks over that of the first: {self.late_over_early:.2f}",
            *(f"{what}: {how}" for what, how in self.paths.items()),
            "",
            "| part | ms per chunk | TFLOP | floor ms | peak GiB |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {part.name} | {part.milliseconds:.1f} | {part.teraflops:.2f} | {part.floor_milliseconds:.1f} "
            f"| {part.peak_gib:.2f} |"
            for part in self.parts
        ]
        return "\n".join([*lines, f"| chunk | {self.chunk_ms:.1f} | | | |"])


class _Clock:
    """Times regions: with events on a GPU, so that nothing waits while a chunk runs, else with the wall clock.

    Args:
        device: Whose work is timed, unless a region names another.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda, self.device = device.type == "cuda", device
        self.regions: dict[str, list[tuple[Any, Any]]] = defaultdict(list)
        self._open: dict[str, Any] = {}

    def _now(self, device: torch.device | None) -> Any:
        if not self.cuda:
            return time.perf_counter() * 1000
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device or self.device))
        return event

    def start(self, name: str, device: torch.device | None = None) -> None:
        self._open[name] = self._now(device)

    def stop(self, name: str, device: torch.device | None = None) -> None:
        self.regions[name].append((self._open.pop(name), self._now(device)))

    def running(self, name: str) -> bool:
        """Whether a region has begun and not ended."""
        return name in self._open

    def late_over_early(self, name: str) -> float:
        """Median of the last quarter of a region's times over that of the first quarter."""
        times = self.milliseconds(name)
        quarter = max(1, len(times) // 4)
        return statistics.median(times[-quarter:]) / statistics.median(times[:quarter])

    def milliseconds(self, name: str) -> list[float]:
        """Times of a region, in order; waits for the device."""
        if self.cuda:
            for _, end in self.regions[name]:
                end.synchronize()
        return [a.elapsed_time(b) if self.cuda else b - a for a, b in self.regions[name]]

    def medians(self) -> dict[str, float]:
        """Median milliseconds by region."""
        return {name: statistics.median(self.milliseconds(name)) for name in list(self.regions)}

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Time every call of a module, where its parameters are; returns the hooks' handles."""
        device = next((x.device for x in module.parameters()), None)
        return [
            module.register_forward_pre_hook(lambda *_: self.start(name, device)),
            module.register_forward_hook(lambda *_: self.stop(name, device)),
        ]

    @contextmanager
    def watching(self, dit: VideoDiT) -> Iterator[None]:
        """Time the blocks of every device meanwhile."""
        run = dit.run_stage

        def timed(stage: Stage, *arguments: Any) -> Tensor:
            self.start(_stage_name(stage), stage.device)
            out = run(stage, *arguments)
            self.stop(_stage_name(stage), stage.device)
            return out

        dit.__dict__["run_stage"] = timed
        yield
        del dit.__dict__["run_stage"]


def _stage_name(stage: Stage) -> str:
    return f"blocks {stage.first} to {stage.stop - 1} on {stage.device}"


def bench(system: FlashVSR | DecoderSystem, *, height: int, width: int, chunks: int = 10, seed: int = 0) -> BenchResult:
    """Time a stream of random frames in steady chunks.

    Args:
        system: The model, on its device.
        height: Rows of the output; LR frames have a quarter.
        width: Columns of the output.
        chunks: Steady chunks to time, after some to warm up.
        seed: Of the frames and the noise.

    Returns:
        Medians; on a GPU of CUDA events, with peak memory since the process started.

    Raises:
        ValueError: If the size is not a multiple of 4, `chunks` is not positive, or the detail of the system is 0,
            with which not all parts run.
    """
    if height % 4 or width % 4 or chunks < 1:
        raise ValueError(f"the output size is a multiple of 4 and chunks at least 1: got {height}x{width}, {chunks}")
    if isinstance(system, FlashVSR) and not system.detail:
        raise ValueError("with a detail of 0 only the decoder runs: bench times all parts, at any other detail")
    first, following = system.geometry.first_frames, system.geometry.next_frames
    video = torch.randint(0, 256, (first + following, 3, height // 4, width // 4), dtype=torch.uint8)
    video = video.to(system.device)
    devices = system.devices if isinstance(system, FlashVSR) else [system.device]
    clock, cuda, names = _Clock(devices[-1]), system.device.type == "cuda", parts_of(system)
    for name in ("cold", "warm-up", "first"):
        stream = system.stream(height=height // 4, width=width // 4, seed=seed)
        for device in devices if cuda else []:
            torch.cuda.synchronize(device)  # nothing is left of what came before
        clock.start(name)
        clock.start(f"{name} chunk")
        stream.push(video[:first], on_frames=partial(_stop_once, clock, name))
        clock.stop(f"{name} chunk")
        if name != "first":  # only the last stream's steady chunks follow; the others free their state
            stream.push(video[first:])
    for _ in range(WARM_UP_GPU if cuda else WARM_UP):
        stream.push(video[first:])
    flops = count_operations(system, stream, video[first:])
    stages: dict[str, float] = {}
    if isinstance(system, FlashVSR) and len(devices) > 1:
        stages = {
            _stage_name(s): flops["dit"] * (s.stop - s.first) / len(system.dit.blocks) for s in system.dit.stages()
        }
        names[names.index("dit") : names.index("dit") + 1] = stages
    watched = [name for name in names if name not in stages]
    handles = [handle for name in watched for handle in clock.watch(name, getattr(system, name))]
    with clock.watching(system.dit) if isinstance(system, FlashVSR) and stages else nullcontext():
        for _ in range(chunks):
            clock.start("chunk")
            stream.push(video[first:])
            clock.stop("chunk")
    for handle in handles:
        handle.remove()
    times, flops = clock.medians(), flops | stages
    for name in watched:  # a decoder may be called for every latent
        times[name] *= len(clock.regions[name]) / chunks
    reserved = [torch.cuda.max_memory_reserved(device) / 2**30 if cuda else 0.0 for device in devices]
    one_gpu = cuda and len(devices) == 1
    peaks = _part_peaks(system, stream, video[first:]) if one_gpu else dict.fromkeys(names, 0.0)
    rate = _matrix_rate(system.device, system.dtype)
    parts = [PartResult(name, times[name], flops[name] / 1e12, flops[name] / rate * 1e3, peaks[name]) for name in names]
    if len(devices) == 1:  # parts on several devices run at the same time
        rest = times["chunk"] - sum(part.milliseconds for part in parts)
        parts.append(PartResult("resize, pad, noise, host", rest, 0.0, 0.0, 0.0))
    return BenchResult(
        device=torch.cuda.get_device_name(system.device) if cuda else f"CPU, {torch.get_num_threads()} threads",
        size=(height, width),
        frames_per_second=1000 * following / times["chunk"],
        cold_first_frames_ms=times["cold"],
        first_frames_ms=times["first"],
        first_chunk_ms=times["first chunk"],
        chunk_ms=times["chunk"],
        late_over_early=clock.late_over_early("chunk"),
        paths=system.paths(),
        parts=parts,
        peak_gib=max(reserved),
        peaks_gib=reserved,
        matrix_tflops=rate / 1e12,
    )


def warm(system: FlashVSR | DecoderSystem, *, height: int, width: int) -> float:
    """Run what a stream of this size runs, so that its kernels are compiled and lie in Triton's cache on disk.

    Args:
        system: As for :func:`bench`.
        height: Rows of the output.
        width: Columns of the output.

    Returns:
        Seconds to the first frames of output, compilation included: little if all was compiled before.

    Raises:
        ValueError: If the size is not a multiple of 4.
    """
    if height % 4 or width % 4:
        raise ValueError(f"the output size is a multiple of 4: got {height}x{width}")
    first, following = system.geometry.first_frames, system.geometry.next_frames
    video = torch.zeros(first, 3, height // 4, width // 4, dtype=torch.uint8)
    came: list[float] = []
    stream, began = system.stream(height=height // 4, width=width // 4), time.perf_counter()
    stream.push(video, on_frames=lambda frames: came.append(time.perf_counter() - began))
    for _ in range(WARM_UP):
        stream.push(video[:following])
    return came[0]


def _stop_once(clock: _Clock, name: str, frames: Tensor) -> None:
    """The first frames of a chunk are there; later ones are not of interest."""
    if clock.running(name):
        clock.stop(name)


def _part_peaks(system: FlashVSR | DecoderSystem, stream: Stream, frames: Tensor) -> dict[str, float]:
    """GiB allocated at most while each part of one chunk runs on a GPU; the allocator's own peaks start anew."""
    names = parts_of(system)
    device, peaks, handles = system.device, dict.fromkeys(names, 0.0), []

    def start(*_: Any) -> None:
        torch.cuda.reset_peak_memory_stats(device)

    for name in names:

        def stop(*_: Any, name: str = name) -> None:
            peaks[name] = torch.cuda.max_memory_allocated(device) / 2**30

        module = getattr(system, name)
        handles += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    stream.push(frames)
    for handle in handles:
        handle.remove()
    return peaks


def _matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product on random data, median of ten."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    clock = _Clock(device)
    for index in range(13):
        clock.start("warm-up" if index < 3 else "product")
        a @ b
        clock.stop("warm-up" if index < 3 else "product")
    return 2 * size**3 / (clock.medians()["product"] / 1e3)
