"""Time several ways to compute the same thing in turn, and print them against what the hardware reaches."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from flashvsr.bench.operations import FUSED_CONVOLUTIONS

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


def run(
    description: str | None,
    measure: Callable[[tuple[int, int], Any, torch.device, torch.dtype, int], list[Row]],
    *,
    size: str,
    multiple: int,
    nano: tuple[int, ...],
    released: tuple[int, ...],
) -> int:
    """Measure what the command line asks for, and write it to a file if that says so.

    Args:
        description: Of the command.
        measure: Called with size, widths, device, dtype and repeats.
        size: Output size by default.
        multiple: Of which both sides are.
        nano: Widths of the networks of nano, the default on a CPU.
        released: Those of the released ones, the default on a GPU.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default=size, metavar="HxW", help=f"output size, multiples of {multiple}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--widths", nargs=len(nano), type=int, help="default: nano's on a CPU, the released on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the rows to this JSON file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    height, width = (int(part) for part in arguments.size.split("x"))
    if height % multiple or width % multiple:
        print(f"--size is rows x columns in multiples of {multiple}, got {arguments.size}", file=sys.stderr)
        return 2
    cpu = device.type == "cpu"
    widths = tuple(arguments.widths or (nano if cpu else released))
    dtype = DTYPES[arguments.dtype or ("fp32" if cpu else "bf16")]
    with torch.inference_mode():
        rows = measure((height, width), widths, device, dtype, arguments.repeats)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return 0
