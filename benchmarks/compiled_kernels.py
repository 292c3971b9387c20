"""Compile every kernel for GPUs that need not be here, as it is launched: registers, shared memory, spills.

The launches are called on tensors without memory, with a stand-in for the GPU's driver, so that tiles and
specialisations are those of a real call. The exit status says whether all fit.

    python benchmarks/compiled_kernels.py --out compiled_kernels.json
    python benchmarks/compiled_kernels.py --capabilities 8.6 --kernels norm_rope residual
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

SHARED_KIB = {"8.0": 163, "8.6": 99, "8.9": 99, "9.0": 227, "10.0": 227, "12.0": 99}
"""KiB of shared memory that one program may take, by compute capability."""

MOST_SPILLED = 8
"""Bytes per thread that may be kept outside of registers: one address, where a division is called as a function."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
DIM, HEADS, FFN = 1536, 12, 8960


@dataclass(frozen=True)
class Compiled:
    """One kernel as one GPU would run it.

    Attributes:
        capability: Compute capability.
        kernel: Name of the function.
        case: What it was launched on.
        registers: Per thread.
        spilled: Bytes per thread of stack and local memory.
        shared_kib: KiB of shared memory per program.
    """

    capability: str
    kernel: str
    case: str
    registers: int
    spilled: int
    shared_kib: float

    def fits(self) -> bool:
        """Whether it spills next to nothing and its GPU has the shared memory."""
        return self.spilled <= MOST_SPILLED and self.shared_kib <= SHARED_KIB[self.capability]


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def launch_attention(module: str, dtype: torch.dtype, head_dim: int) -> None:
    """Forward and backward over two pieces, as in a stream of 768x1408 pixels, and with more programs."""
    launch: Any = import_module(f"flashvsr.kernels.{module}")
    for rows in (66, 510):  # with few programs rows run in an order of their own
        query, grad, *pieces = (
            meta(1, blocks * 128, HEADS, head_dim, dtype=dtype).transpose(1, 2) for blocks in (rows, rows, 198, 66)
        )
        lists = launch.BlockLists.of(meta(1, HEADS, rows, 264, dtype=torch.bool))
        transposed = launch.BlockLists.of(meta(1, HEADS, rows, 264, dtype=torch.bool).transpose(2, 3))
        operands = launch.Operands(query, tuple(pieces), tuple(pieces), 128, head_dim**-0.5)
        out, lse = launch.forward(operands, lists)
        delta = launch.dot_rows(out, grad, 128)
        launch.grad_query(operands, grad, lse, delta, lists)
        launch.grad_key_value(operands, 1, grad, lse, delta, transposed)


def launch_attention_8bit(fp8_values: bool) -> None:
    """Quantisation and attention over two pieces, as in a stream of 768x1408 pixels, and with more programs."""
    launch: Any = import_module("flashvsr.kernels.attention_8bit_launch")
    triton_launch: Any = import_module("flashvsr.kernels.attention_triton_launch")
    for rows in (66, 510):
        query, *pieces = (meta(1, blocks * 128, HEADS, 128).transpose(1, 2) for blocks in (rows, 198, 66))
        operands = triton_launch.Operands(query, tuple(pieces), tuple(pieces), 128, 128**-0.5)
        mask = meta(1, HEADS, rows, 264, dtype=torch.bool)
        launch.forward(operands, mask, torch.float8_e4m3fn if fp8_values else None)


def launch_hopper_8bit() -> None:
    """Likewise, with the kernel for Hopper."""
    launch: Any = import_module("flashvsr.kernels.attention_hopper_8bit_launch")
    triton_launch: Any = import_module("flashvsr.kernels.attention_triton_launch")
    query, *pieces = (meta(1, blocks * 128, HEADS, 128).transpose(1, 2) for blocks in (66, 198, 66))
    operands = triton_launch.Operands(query, tuple(pieces), tuple(pieces), 128, 128**-0.5)
    launch.forward(operands, meta(1, HEADS, 66, 264, dtype=torch.bool))


def launch_norm_rope() -> None:
    """Norm of queries of the prompt's attention, and norm and rotation."""
    launch = import_module("flashvsr.kernels.norm_rope").launch_norm_rope
    x, weight = meta(1, 8448, DIM), meta(DIM)
    launch(x, weight, 1e-6)
    launch(x, weight, 1e-6, meta(8448, DIM // HEADS // 2, 2, dtype=torch.float32), HEADS)


def launch_residual() -> None:
    """Sum, and sum with norm."""
    launch = import_module("flashvsr.kernels.residual").launch_add_norm
    x, row = meta(1, 8448, DIM), meta(DIM)
    launch(x, x, row)
    launch(x, x, row, row, row, 1e-6)
    launch(x, x, None, row, row, 1e-6)


def launch_quantize() -> None:
    """Rows before the first and before the second product of a feed-forward network."""
    launch = import_module("flashvsr.kernels.quantize").launch_quantize
    launch(meta(8448, DIM), torch.float8_e4m3fn, False)
    launch(meta(8448, FFN), torch.float8_e4m3fn, True)


def launch_select() -> None:
    """Selection at 768x1408 and at 2176x3840."""
    launch = import_module("flashvsr.kernels.select").launch_select
    for blocks in (66, 510):
        launch(meta(1, HEADS, blocks, 4 * blocks), 0.1, meta(blocks, blocks, dtype=torch.bool), 1000)


def cases(capability: str, kernels: list[str]) -> Iterator[tuple[str, Callable[[], None]]]:
    """What a GPU can run, each with a name."""
    if "attention_triton" in kernels:
        for name, dtype in DTYPES.items():
            yield f"triton {name}", lambda dtype=dtype: launch_attention("attention_triton_launch", dtype, 128)
        yield "triton bf16, head dim 64", lambda: launch_attention("attention_triton_launch", torch.bfloat16, 64)
    if "attention_hopper" in kernels and capability == "9.0":
        for name in ("bf16", "fp16"):
            dtype = DTYPES[name]
            yield f"hopper {name}", lambda dtype=dtype: launch_attention("attention_hopper_launch", dtype, 128)
    if "attention_8bit" in kernels:
        yield "int8", lambda: launch_attention_8bit(False)
        if float(capability) >= 8.9:
            yield "8 bits", lambda: launch_attention_8bit(True)
    if "attention_hopper_8bit" in kernels and capability == "9.0":
        yield "hopper 8 bits", launch_hopper_8bit
    if "norm_rope" in kernels:
        yield "norm_rope", launch_norm_rope
    if "residual" in kernels:
        yield "residual", launch_residual
    if "select" in kernels:
        yield "select", launch_select
    if "quantize" in kernels and float(capability) >= 8.9:
        yield "quantize", launch_quantize


KERNELS = [
    "attention_triton",
    "attention_hopper",
    "attention_8bit",
    "attention_hopper_8bit",
    "norm_rope",
    "residual",
    "select",
    "quantize",
]


class StandInDriver:
    """What Triton asks a driver when it compiles."""

    def __init__(self, capability: str) -> None:
        self.number = int(capability.replace(".", ""))

    def get_current_device(self) -> int:
        """A number for each capability, by which Triton keeps apart what it compiled."""
        return self.number

    def get_current_stream(self, device: int) -> int:
        """None is used."""
        return 0

    def get_current_target(self) -> GPUTarget:
        """The GPU compiled for."""
        return GPUTarget("cuda", self.number, 32)


@contextmanager
def compiling(capability: str) -> Iterator[list[tuple[str, Any]]]:
    """Have every launch compile only, for a GPU; yields names of kernels with what they were compiled to."""
    compiled: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compiled.append((self.fn.__name__, run(self, *args, grid=(1,), warmup=True, **options)))

    properties = SimpleNamespace(shared_memory_per_block_optin=SHARED_KIB[capability] * 1024)
    active = triton.runtime.driver.active if torch.cuda.is_available() else None
    triton.runtime.driver.set_active(StandInDriver(capability))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(torch.cuda, "get_device_properties", lambda device: properties),
        ):
            yield compiled
    finally:
        if active is not None:
            triton.runtime.driver.set_active(active)


def compile_all(capability: str, kernels: list[str]) -> list[Compiled]:
    """Compile kernels for a compute capability."""
    found: dict[tuple[str, str, str], Compiled] = {}
    for case, launch in cases(capability, kernels):
        with compiling(capability) as compiled, tempfile.TemporaryDirectory() as folder:
            launch()
            for name, kernel in compiled:
                file = Path(folder) / "kernel.cubin"
                file.write_bytes(kernel.asm["cubin"])
                command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file]
                usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                registers = max(int(count) for count in re.findall(r"REG:(\d+)", usage))
                spilled = sum(int(size) for size in re.findall(r"(?:STACK|LOCAL):(\d+)", usage))
                one = Compiled(capability, name, case, registers, spilled, kernel.metadata.shared / 1024)
                found[name, case, kernel.hash] = one
    return list(found.values())


def main() -> int:
    """Compile what the command line asks for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capabilities", nargs="+", choices=SHARED_KIB, default=list(SHARED_KIB))
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=KERNELS)
    parser.add_argument("--out", type=Path, help="write the rows to this JSON file")
    arguments = parser.parse_args()
    rows: list[Compiled] = []
    print("| GPU | case | kernel | registers | spilled, bytes | shared, KiB | of KiB |\n|---|---|---|---|---|---|---|")
    for capability in arguments.capabilities:
        for row in compile_all(capability, arguments.kernels):
            rows.append(row)
            verdict = "" if row.fits() else " does not fit"
            print(
                f"| {capability} | {row.case} | {row.kernel} | {row.registers} | {row.spilled} | {row.shared_kib:.1f} "
                f"| {SHARED_KIB[capability]}{verdict} |",
                flush=True,
            )
    if arguments.out:
        what = {"date": datetime.now().isoformat(timespec="minutes"), "triton": triton.__version__}
        arguments.out.write_text(json.dumps({**what, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    return int(not all(row.fits() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
