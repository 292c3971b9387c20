"""Time several ways to compute the same thing in turn, and print them against what the hardware reaches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from flashvsr.bench import FUSED_CONVOLUTIONS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Row:
    """One way to compute one thing.

    Attributes:
        part: What is computed.
        path: How.
        milliseconds: Least time of all repeats.
        teraflops: Operations of products and convolutions that this path does, 10^12, products with zeros included.
        rate: TFLOP/s.
        share: Rate over that of a large convolution measured in the same run.
        error: Relative, in the L2 norm, against the plain path in a wider dtype.
    """

    part: str
    path: str
    milliseconds: float
    teraflops: float
    rate: float
    share: float
    error: float


def least_times(calls: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """Least milliseconds of each call, taken in turn so that what else the machine does meets all of them alike.

    Args:
        calls: What to time, by name.
        device: A GPU is timed with events, anything else with the wall clock.
        repeats: Rounds to time, after one to warm up.

    Returns:
        Milliseconds by name.
    """
    least = dict.fromkeys(calls, float("inf"))
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            if device.type == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                call()
                end.record()
                torch.cuda.synchronize(device)
                spent = start.elapsed_time(end)
            else:
                begin = time.perf_counter()
                call()
                spent = 1000 * (time.perf_counter() - begin)
            if round_:
                least[name] = min(least[name], spent)
    return least


def convolution_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a 3x3 convolution in channels_last that the hardware likes."""
    channels, size = (256, 256) if device.type == "cuda" else (128, 128)
    x, weight = torch.randn(1, channels, size, size), torch.randn(channels, channels, 3, 3)
    x, weight = (tensor.to(device, dtype, memory_format=torch.channels_last) for tensor in (x, weight))
    call = {"conv": lambda: functional.conv2d(x, weight, padding=1)}
    return 2 * 9 * channels**2 * size**2 / (least_times(call, device, 10)["conv"] / 1e3)


def compare(
    part: str,
    calls: dict[str, Callable[[], Tensor]],
    exact: Tensor,
    device: torch.device,
    ceiling: float,
    repeats: int,
) -> list[Row]:
    """Time all paths of one part and measure their errors; prints a line each."""
    least = least_times(calls, device, repeats)
    rows = []
    for path, call in calls.items():
        with FlopCounterMode(display=False, custom_mapping=FUSED_CONVOLUTIONS) as counter:
            out = call()
        flops = float(counter.get_total_flops())
        rate = flops / (least[path] / 1e3)
        error = ((out.to(exact.dtype) - exact).norm() / exact.norm()).item()
        rows.append(Row(part, path, least[path], flops / 1e12, rate / 1e12, rate / ceiling, error))
        print(
            f"| {part} | {path} | {least[path]:.2f} | {flops / 1e12:.4f} | {rate / 1e12:.2f} | {rate / ceiling:.0%} "
            f"| {error:.1e} |",
            flush=True,
        )
    return rows


def print_head(device: torch.device, dtype: str, ceiling: float) -> None:
    """Say what is measured where, and begin the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {dtype}: a large convolution reaches {ceiling / 1e12:.2f} TFLOP/s\n")
    print("| part | path | ms | TFLOP | TFLOP/s | of ceiling | error |\n|---|---|---|---|---|---|---|")


def write_rows(rows: list[Row], path: Path | None) -> None:
    """Write the rows as JSON, if a path is given."""
    if path is not None:
        path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
