"""Correctness and speed of block-sparse attention on a GPU, at the shapes of FlashVSR.

Prints as it goes; a section that fails is reported and the others still run, the exit status tells. Without
``--sweep`` it takes under three minutes, most of them compilation.

    python benchmarks/attention.py --out attention.json
    python benchmarks/attention.py --sections speed --sweep      # other tiles of the Triton kernels too
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from statistics import median
from types import ModuleType, TracebackType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from flashvsr.attention import window_mask

BLOCK_SIZE, HEADS, HEAD_DIM, SLOTS = 128, 12, 128, 4
SCALE = HEAD_DIM**-0.5
KEPT_PER_ROW = 120
"""Key blocks kept per query block on average: sparse_ratio 2.0, at any resolution."""
GRIDS = {"768x1408": (6, 11), "2176x3840": (17, 30)}
"""Blocks per slot, rows and columns; one query slot attends to four slots, three of them from a ring."""


class Problem(NamedTuple):
    """One attention call; every tensor is a view of token-major storage."""

    query: Tensor  # [B, heads, N, D]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor  # [B, heads, N/128, M/128]

    @property
    def inputs(self) -> list[Tensor]:
        """What gradients are taken of."""
        return [self.query, *self.keys, *self.values]

    @property
    def flops(self) -> float:
        """Operations of the forward pass on kept blocks: two products, two operations per multiply-add."""
        return 4 * HEAD_DIM * BLOCK_SIZE**2 * self.mask.sum().item()


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


def make_problem(
    batch: int, heads: int, query_blocks: int, key_blocks: list[int], mask: Tensor, dtype: torch.dtype
) -> Problem:
    """Normal random queries, keys and values."""
    tensors = [
        torch.randn(batch, blocks * BLOCK_SIZE, heads, HEAD_DIM, device="cuda")
        .to(dtype)
        .transpose(1, 2)
        .requires_grad_()
        for blocks in (query_blocks, *key_blocks, *key_blocks)
    ]
    pieces = len(key_blocks)
    return Problem(tensors[0], tuple(tensors[1 : pieces + 1]), tuple(tensors[pieces + 1 :]), mask)


def selected_mask(grid: tuple[int, int]) -> Tensor:
    """What the joint selection leaves: the best pairs per head inside the window, unevenly spread over the rows."""
    window = window_mask(grid, (11, 11)).cuda().repeat(1, SLOTS)  # [S, 4 S]
    score = torch.rand(HEADS, *window.shape, device="cuda") + 0.3 * torch.randn(HEADS, len(window), 1, device="cuda")
    score = score.masked_fill(~window, float("-inf")).flatten(1)
    threshold = score.topk(KEPT_PER_ROW * len(window)).values[:, -1:]
    return (score >= threshold).view(1, HEADS, *window.shape)


def chunk_problem(name: str, dtype: torch.dtype = torch.bfloat16) -> Problem:
    """One streaming step: a query slot against a ring of three slots and its own keys."""
    grid = GRIDS[name]
    size = grid[0] * grid[1]
    return make_problem(1, HEADS, size, [(SLOTS - 1) * size, size], selected_mask(grid), dtype)


def load(impl: str) -> ModuleType:
    """Import the implementation, or say why it cannot run."""
    module = import_module(f"flashvsr.attention.impl_{impl}")
    reason = module.unavailable(torch.device("cuda"), torch.bfloat16, HEAD_DIM, True)
    if reason:
        raise RuntimeError(f"impl {impl!r} cannot run here: {reason}")
    return module


def attend(impl: str, problem: Problem) -> Tensor:
    """Call an implementation as the library does."""
    query, keys, values, mask = problem
    return load(impl).attend(query, keys, values, mask, block_size=BLOCK_SIZE, scale=SCALE)


def attend_in_float64(problem: Problem) -> Tensor:
    """Masked softmax attention, one head at a time."""
    mask = problem.mask.repeat_interleave(BLOCK_SIZE, 2).repeat_interleave(BLOCK_SIZE, 3)
    query, key, value = (torch.cat(x, 2).double() for x in ((problem.query,), problem.keys, problem.values))
    heads = []
    for head in range(query.shape[1]):
        weights = (query[:, head] @ key[:, head].mT * SCALE).exp() * mask[:, head]
        heads.append(weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ value[:, head])
    return torch.stack(heads, 1)


def check(impls: list[str], dtype: torch.dtype) -> Iterator[dict[str, object]]:
    """Compare output and gradients with float64, on a mask with empty rows and heads that differ."""
    torch.manual_seed(0)
    mask = torch.rand(2, 3, 16, 40, device="cuda") < torch.rand(2, 3, 16, 1, device="cuda")
    mask[:, 0, 1] = mask[0, 1, 7] = False
    mask[..., 5] = False
    problem = make_problem(2, 3, 16, [24, 16], mask, dtype)
    grad = torch.randn_like(problem.query)

    def with_gradients(out: Tensor) -> list[Tensor]:
        return [x.double() for x in (out.detach(), *torch.autograd.grad(out, problem.inputs, grad.to(out.dtype)))]

    exact = with_gradients(attend_in_float64(problem))
    names = ["output", "query", "key 1", "key 2", "value 1", "value 2"]

    def errors(impl: str) -> list[float]:
        got = with_gradients(attend(impl, problem))
        return [((x - true).norm() / true.norm()).item() for x, true in zip(got, exact, strict=True)]

    reference = errors("reference")
    worst = []
    for impl in impls:
        ours = errors(impl)
        for name, error, limit in zip(names, ours, reference, strict=True):
            verdict = "ok" if error <= 2 * limit else "TOO FAR"
            print(
                f"{impl:9} {str(dtype)[6:]:9} {name:8} error {error:.2e}  reference {limit:.2e}  {verdict}", flush=True
            )
            yield {"impl": impl, "dtype": str(dtype), "of": name, "error": error, "reference": limit}
            if verdict != "ok":
                worst.append(f"{impl} {name}")
    if worst:
        raise AssertionError(f"errors of more than twice the reference's: {', '.join(worst)}")


def milliseconds(
    function: Callable[[], object], before: Callable[[], object] | None = None, repeats: int = 20
) -> float:
    """Median time of a call on the GPU; ``before`` runs ahead of each, untimed."""
    times = []
    for i in range(repeats + 3):
        if before:
            before()
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        stop.record()
        stop.synchronize()
        if i >= 3:
            times.append(start.elapsed_time(stop))
    return median(times)


def report(shape: str, what: str, time: float, flops: float) -> dict[str, object]:
    """Print one line and return it as a record."""
    print(f"{shape:10} {what:44} {time:8.3f} ms {flops / time / 1e9:7.0f} TFLOP/s", flush=True)
    return {"shape": shape, "what": what, "ms": time, "tflops": flops / time / 1e9}


def time_backward(function: Callable[[], Tensor], problem: Problem) -> float:
    """Time of the backward pass alone."""
    grad = torch.randn_like(problem.query)
    out: list[Tensor] = []

    def forward() -> None:
        out[:] = [function()]

    return milliseconds(lambda: torch.autograd.grad(out[0], problem.inputs, grad), before=forward)


def time_impl(impl: str, shape: str) -> Iterator[dict[str, object]]:
    """Forward without gradients, as in streaming, and backward; operations counted on kept blocks only."""
    torch.manual_seed(0)
    problem = chunk_problem(shape)
    with torch.no_grad():
        yield report(shape, f"{impl} forward", milliseconds(lambda: attend(impl, problem)), problem.flops)
    yield report(shape, f"{impl} backward", time_backward(lambda: attend(impl, problem), problem), 2.5 * problem.flops)


def time_dense(shape: str) -> Iterator[dict[str, object]]:
    """SDPA over all keys with no mask: what attention costs when nothing is dropped."""
    torch.manual_seed(0)
    problem = chunk_problem(shape)
    flops = problem.flops / problem.mask.float().mean().item()
    key, value = (torch.cat(x, 2).detach() for x in (problem.keys, problem.values))
    query = problem.query.detach()
    time = milliseconds(lambda: scaled_dot_product_attention(query, key, value, scale=SCALE))
    yield report(shape, "SDPA over all keys, forward", time, flops)


def time_triton_parts(shape: str) -> Iterator[dict[str, object]]:
    """Triton's block lists alone, and both orders of rows."""
    from flashvsr.attention import triton_launch as launch

    torch.manual_seed(0)
    problem = chunk_problem(shape)
    yield report(shape, "triton lists", milliseconds(lambda: launch.BlockLists.of(problem.mask)), 0.0)
    transposed = problem.mask.transpose(2, 3)
    yield report(shape, "triton transposed lists", milliseconds(lambda: launch.BlockLists.of(transposed)), 0.0)
    default = launch.FULLEST_FIRST_UP_TO
    with torch.no_grad():
        for limit, order in ((0, "as they come"), (1 << 30, "fullest first")):
            launch.FULLEST_FIRST_UP_TO = limit
            yield report(
                shape, f"triton forward, rows {order}", milliseconds(lambda: attend("triton", problem)), problem.flops
            )
    launch.FULLEST_FIRST_UP_TO = default


def sweep_tiles(shape: str) -> Iterator[dict[str, object]]:
    """Every kernel of the Triton implementation with other tiles; those that do not fit the GPU are named."""
    from triton.runtime.errors import OutOfResources

    from flashvsr.attention import triton_launch as launch

    torch.manual_seed(0)
    problem = chunk_problem(shape)
    operands = launch.Operands(problem.query, problem.keys, problem.values, BLOCK_SIZE, SCALE)
    lists, transposed = (launch.BlockLists.of(m) for m in (problem.mask, problem.mask.transpose(2, 3)))
    out, lse = launch.forward(operands, lists)
    grad = torch.randn_like(out)
    delta = launch.dot_rows(out, grad, BLOCK_SIZE)
    kernels: dict[str, tuple[Callable[[], object], float, list[tuple[int, int, int, int]]]] = {
        "forward": (
            lambda: launch.forward(operands, lists),
            1.0,
            [(128, 128, 8, 3), (128, 128, 8, 2), (128, 64, 8, 3), (128, 64, 8, 4), (128, 64, 4, 2), (64, 64, 4, 3)],
        ),
        "grad_query": (
            lambda: launch.grad_query(operands, grad, lse, delta, lists),
            1.5,
            [(128, 64, 8, 3), (128, 64, 8, 2), (128, 128, 8, 2), (64, 64, 4, 2), (128, 32, 8, 3)],
        ),
        "grad_key_value": (
            lambda: [launch.grad_key_value(operands, i, grad, lse, delta, transposed) for i in range(2)],
            2.0,
            [(128, 64, 8, 3), (128, 64, 8, 2), (128, 32, 8, 3), (64, 64, 8, 2), (64, 64, 4, 2)],
        ),
    }
    default = launch.LARGE
    for kernel, (function, work, candidates) in kernels.items():
        for candidate in candidates:
            launch.LARGE = default._replace(**{kernel: launch.Tile(*candidate)})
            try:
                time = milliseconds(function, repeats=10)
            except OutOfResources as error:
                print(f"{shape:10} {kernel} {candidate}: {error}", flush=True)
                continue
            yield report(shape, f"{kernel} {candidate}", time, work * problem.flops)
    launch.LARGE = default


def main() -> None:
    """Run the sections that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=["check", "speed"], default=["check", "speed"])
    parser.add_argument("--impls", nargs="+", default=["triton", "flex"])
    parser.add_argument("--sweep", action="store_true", help="also time other tiles of the Triton kernels")
    parser.add_argument("--out", type=Path, help="write all records to this JSON file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/attention.py needs a CUDA GPU")
    print(torch.cuda.get_device_name(), "torch", torch.__version__)

    jobs: list[tuple[str, Iterator[dict[str, object]]]] = []
    for impl in arguments.impls if "check" in arguments.sections else []:
        jobs += [(f"check {impl} {dtype}", check([impl], dtype)) for dtype in (torch.bfloat16, torch.float16)]
    for shape in GRIDS if "speed" in arguments.sections else ():
        jobs += [(f"speed {impl} {shape}", time_impl(impl, shape)) for impl in arguments.impls]
        jobs.append((f"speed dense {shape}", time_dense(shape)))
        jobs.append((f"speed of triton's parts {shape}", time_triton_parts(shape)))
        if arguments.sweep:
            jobs.append((f"sweep {shape}", sweep_tiles(shape)))

    records: list[dict[str, object]] = []
    failed: list[str] = []
    for name, job in jobs:
        with Section(name, failed):
            records.extend(job)
    if arguments.out:
        arguments.out.write_text(json.dumps({"gpu": torch.cuda.get_device_name(), "records": records}, indent=1))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
