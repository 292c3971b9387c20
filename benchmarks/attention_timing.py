"""Times of calls on a GPU, against what it can do at most, and sections of a script that may fail one by one."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import cache
from statistics import median
from types import TracebackType

import torch


class Section:
    """Runs a part of the script, prints the traceback if it fails, and remembers that it did."""

    failed: list[str]

    def __init__(self, name: str, failed: list[str]) -> None:
        self.name, self.failed = name, failed

    def __enter__(self) -> None:
        print(f"\n== {self.name}", flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        torch.cuda.empty_cache()
        if not isinstance(error, Exception):
            return False
        traceback.print_exception(error)
        self.failed.append(self.name)
        return True


def milliseconds(
    function: Callable[[], object], before: Callable[[], object] | None = None, repeats: int = 20
) -> float:
    """Median time of a call on the GPU; ``before`` runs ahead of each, untimed.

    Without it five calls are timed in a row, as in a model: what the host does for one hides behind the one before.
    """
    times, calls = [], 1 if before else 5
    for i in range(repeats + 3):
        if before:
            before()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            function()
        stop.record()
        stop.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(stop) / calls)
    return median(times)


@cache
def ceilings() -> tuple[float, float]:
    """Operations per second of a large bf16 matrix product, and bytes per second, read and written, of a large copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = 2 * 8192**3 / (milliseconds(lambda: a @ b) / 1e3)
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * source.nbytes / (milliseconds(lambda: target.copy_(source)) / 1e3)
    print(f"a matrix product reaches {product / 1e12:.0f} TFLOP/s, a copy {copy / 1e9:.0f} GB/s", flush=True)
    return product, copy


def report(shape: str, what: str, time: float, flops: float, moved: float = 0.0) -> dict[str, object]:
    """Print one line and return it as a record."""
    product, copy = ceilings()
    floor = 1e3 * max(flops / product, moved / copy)
    print(
        f"{shape:10} {what:44} {time:8.3f} ms {flops / time / 1e9:7.0f} TFLOP/s {floor / time:6.0%} of roofline",
        flush=True,
    )
    return {"shape": shape, "what": what, "ms": time, "tflops": flops / time / 1e9, "of_roofline": floor / time}
