"""Correctness and speed of block-sparse attention on a GPU, at the shapes of FlashVSR.

Prints as it goes; a section that fails is reported and the others still run, the exit status tells. Without
``--sweep`` it takes a few minutes, most of them compilation. Operations are counted on kept blocks only, and "of
roofline" is the time that they, or the bytes moved at least, would take at the rates of a large matrix product and a
large copy in the same run, over the time taken.

    python benchmarks/attention.py --out attention.json
    python benchmarks/attention.py --sections speed --sweep      # other tiles of the Triton kernels too
    python benchmarks/attention.py --sections masks --impls hopper triton flex
    python benchmarks/attention.py --impls hopper triton triton_int8 triton_8bit hopper_8bit --sweep  # in 8 bits, too
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import torch
from attention_masks import (
    BLOCK_SIZE,
    GRIDS,
    MASKS,
    SCALE,
    Problem,
    chunk_problem,
    make_problem,
)
from attention_timing import Section, milliseconds, report
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from triton.runtime.errors import OutOfResources

from flashvsr.attention import block_sparse_attention
from flashvsr.attention.choice import EIGHT_BIT_IMPLS
from flashvsr.kernels.attention_triton_launch import Operands, Tile

SECTIONS = ["check", "masks", "speed"]


def attend(impl: str, problem: Problem) -> Tensor:
    """Call an implementation as the library does; raises if it cannot run here."""
    query, keys, values, mask = problem
    return block_sparse_attention(query, keys, values, mask, BLOCK_SIZE, SCALE, impl)


def attend_in_float64(problem: Problem) -> Tensor:
    """Masked softmax attention, one head at a time."""
    mask = problem.mask.repeat_interleave(BLOCK_SIZE, 2).repeat_interleave(BLOCK_SIZE, 3)
    query, key, value = (torch.cat(x, 2).double() for x in ((problem.query,), problem.keys, problem.values))
    heads = []
    for head in range(query.shape[1]):
        weights = (query[:, head] @ key[:, head].mT * SCALE).exp() * mask[:, head]
        heads.append(weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ value[:, head])
    return torch.stack(heads, 1)


def irregular_problem(dtype: torch.dtype) -> Problem:
    """Two pieces under a mask with empty rows and heads that differ."""
    torch.manual_seed(0)
    mask = torch.rand(2, 3, 16, 40, device="cuda") < torch.rand(2, 3, 16, 1, device="cuda")
    mask[:, 0, 1] = mask[0, 1, 7] = False
    mask[..., 5] = False
    return make_problem(2, 3, 16, [24, 16], mask, dtype)


@torch.no_grad()
def check_8bit(impl: str, dtype: torch.dtype) -> Iterator[dict[str, object]]:
    """Compare the output with the plain form, which rounds alike, and with float64."""
    problem, plain = irregular_problem(dtype), f"plain_{impl.split('_')[1]}"
    ours, same, exact = (
        x.double() for x in (attend(impl, problem), attend(plain, problem), attend_in_float64(problem))
    )
    apart, error = (((ours - x).norm() / x.norm()).item() for x in (same, exact))
    print(f"{impl:11} {str(dtype)[6:]:9} apart from {plain} {apart:.2e}, error {error:.2e}", flush=True)
    yield {"impl": impl, "dtype": str(dtype), "of": "output", "error": error, "apart_from_plain": apart}
    if not apart < 5e-3:
        raise AssertionError(f"{impl} does not compute what {plain} does")


def check(impls: list[str], dtype: torch.dtype) -> Iterator[dict[str, object]]:
    """Compare output and gradients with float64, on a mask with empty rows and heads that differ."""
    problem = irregular_problem(dtype)
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


def time_backward(function: Callable[[], Tensor], problem: Problem) -> float:
    """Time of the backward pass alone."""
    grad = torch.randn_like(problem.query)
    out: list[Tensor] = []

    def forward() -> None:
        out[:] = [function()]

    return milliseconds(lambda: torch.autograd.grad(out[0], problem.inputs, grad), before=forward)


def time_impl(impl: str, shape: str) -> Iterator[dict[str, object]]:
    """Forward without gradients, as in streaming, and backward."""
    torch.manual_seed(0)
    problem = chunk_problem(shape)
    with torch.no_grad():
        time = milliseconds(lambda: attend(impl, problem))
    yield report(shape, f"{impl} forward", time, problem.flops, problem.bytes)
    if impl not in EIGHT_BIT_IMPLS:
        time = time_backward(lambda: attend(impl, problem), problem)
        yield report(shape, f"{impl} backward", time, 2.5 * problem.flops)
        return
    from flashvsr.kernels.attention_8bit_launch import quantize

    operands = Operands(problem.query, problem.keys, problem.values, BLOCK_SIZE, SCALE)
    values = None if impl.endswith("int8") else torch.float8_e4m3fn
    time = milliseconds(lambda: quantize(operands, problem.mask, values))
    yield report(shape, f"{impl} quantisation, part of it", time, 0.0, 1.5 * problem.bytes)


def sweep_8bit(impl: str, shape: str) -> Iterator[dict[str, object]]:
    """Other tiles of the Triton kernel in 8 bits, or other numbers of blocks in shared memory of the Hopper kernel."""
    from flashvsr.kernels import attention_8bit_launch, attention_hopper_8bit_launch

    torch.manual_seed(0)
    problem = chunk_problem(shape)
    hopper = impl.startswith("hopper")
    module, name = (attention_hopper_8bit_launch, "STAGES") if hopper else (attention_8bit_launch, "choose_tile")
    tiles = [(128, 128, 8, 3), (128, 128, 8, 4), (128, 128, 4, 3), (128, 64, 8, 4), (128, 64, 4, 3), (64, 128, 4, 3)]
    for candidate in (2, 3, 4) if hopper else tiles:
        value = candidate if hopper else lambda device, fp8, tile=candidate: Tile(*tile)
        with mock.patch.object(module, name, value), torch.no_grad():
            try:
                time = milliseconds(lambda: attend(impl, problem), repeats=10)
            except OutOfResources as error:
                print(f"{shape:10} {impl} {candidate}: {error}", flush=True)
                continue
        yield report(shape, f"{impl} {candidate}", time, problem.flops)


def time_dense(shape: str) -> Iterator[dict[str, object]]:
    """SDPA over all keys with no mask: what attention costs when nothing is dropped."""
    torch.manual_seed(0)
    problem = chunk_problem(shape, mask="density 1.0")
    key, value = (torch.cat(x, 2).detach() for x in (problem.keys, problem.values))
    query = problem.query.detach()
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        with sdpa_kernel(backend):
            time = milliseconds(lambda: scaled_dot_product_attention(query, key, value, scale=SCALE))
        yield report(shape, f"SDPA over all keys, {backend.name}", time, problem.flops, problem.bytes)


def time_masks(impls: list[str], shape: str) -> Iterator[dict[str, object]]:
    """Forward without gradients on masks of many kinds, after the share of blocks and the rows that they keep."""
    for mask in MASKS:
        torch.manual_seed(0)
        problem = chunk_problem(shape, mask=mask)
        kept = problem.mask.sum(-1).float()
        density, longest, empty = problem.mask.float().mean(), kept.max() / kept.mean(), (kept == 0).float().mean()
        print(f"-- {mask}: density {density:.2f}, longest row {longest:.1f} of the mean, {empty:.0%} of rows empty")
        for impl in impls:
            with torch.no_grad():
                time = milliseconds(lambda impl=impl, problem=problem: attend(impl, problem))
            yield report(shape, f"{impl}, {mask}", time, problem.flops, problem.bytes)


def time_triton_parts(shape: str) -> Iterator[dict[str, object]]:
    """Triton's block lists alone, and both orders of rows."""
    from flashvsr.kernels import attention_triton_launch as launch

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
    from flashvsr.kernels import attention_triton_launch as launch

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
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--impls", nargs="+", default=["triton", "flex"])
    parser.add_argument("--sweep", action="store_true", help="also time other tiles of the Triton kernels")
    parser.add_argument("--out", type=Path, help="write all records to this JSON file")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/attention.py needs a CUDA GPU")
    print(torch.cuda.get_device_name(), "torch", torch.__version__)

    jobs: list[tuple[str, Iterator[dict[str, object]]]] = []
    for impl in arguments.impls if "check" in arguments.sections else []:
        for dtype in (torch.bfloat16, torch.float16):
            checked = check_8bit(impl, dtype) if impl in EIGHT_BIT_IMPLS else check([impl], dtype)
            jobs.append((f"check {impl} {dtype}", checked))
    if "masks" in arguments.sections:
        jobs.append(("masks", time_masks(arguments.impls, "768x1408")))
    for shape in GRIDS if "speed" in arguments.sections else ():
        jobs += [(f"speed {impl} {shape}", time_impl(impl, shape)) for impl in arguments.impls]
        jobs.append((f"speed dense {shape}", time_dense(shape)))
        jobs.append((f"speed of triton's parts {shape}", time_triton_parts(shape)))
        if arguments.sweep:
            jobs.append((f"sweep {shape}", sweep_tiles(shape)))
            rounding = [impl for impl in arguments.impls if impl in EIGHT_BIT_IMPLS]
            jobs += [(f"sweep {impl} {shape}", sweep_8bit(impl, shape)) for impl in rounding]

    records: list[dict[str, object]] = []
    failed: list[str] = []
    for name, job in jobs:
        with Section(name, failed):
            records.extend(job)
    if arguments.out:
        what = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": version("triton")}
        what["date"] = datetime.now().isoformat(timespec="minutes")
        arguments.out.write_text(json.dumps({**what, "records": records}, indent=1))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
