"""The tiles of the Triton kernels, compiled ahead of time for GPUs that this machine need not have."""

import os
import re
import subprocess
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed: register use was not checked")

from flashvsr.kernels import attention_triton as triton_kernels  # noqa: E402
from flashvsr.kernels import attention_triton_launch as triton_launch  # noqa: E402

KERNELS = ("attend_forward", "grad_of_query", "grad_of_key_value")
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 120: 99 * 1024}
"""Bytes that one program may take, by compute capability."""


def compile_for(capability: int, kernel: str, tile: triton_launch.Tile, dtype: str) -> "triton.compiler.CompiledKernel":
    """Compile a kernel as it is launched at head dim 128 on two pieces, with rows in an order of their own."""
    constants = {
        "PIECES": 2,
        "ORDERED": True,
        "BLOCK": 128,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "D": 128,
    }
    function = getattr(triton_kernels, kernel)
    signature: dict[str, str] = {}
    aligned: dict[tuple[int], list[list[object]]] = {}
    for index, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.startswith("scale"):
            signature[name] = "fp32"
        elif name in triton_kernels.SIZES:
            signature[name] = "i32"
        elif re.search("_[bhn]$", name):
            signature[name] = "i32"
            aligned[(index,)] = [["tt.divisibility", 16]]
        else:
            element = {"lse": "fp32", "delta": "fp32", "counts": "i32", "indices": "i32", "order": "i32"}.get(
                name, dtype
            )
            signature[name] = f"*{element}"
            aligned[(index,)] = [["tt.divisibility", 16]]
    constants = {name: value for name, value in constants.items() if name in signature}
    return triton.compile(
        triton.compiler.ASTSource(function, signature, constants, aligned),
        target=triton.backends.compiler.GPUTarget("cuda", capability, 32),
        options={"num_warps": tile.warps, "num_stages": tile.stages, "enable_fp_fusion": True},
    )


def local_memory(cubin: bytes, folder: Path) -> int:
    """Bytes of stack and local memory per thread: what a kernel that runs out of registers spills to."""
    (folder / "kernel.cubin").write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", folder / "kernel.cubin"]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(int(size) for size in re.findall(r"(?:STACK|LOCAL):(\d+)", usage))


@pytest.mark.slow  # each case compiles for one or two seconds per kernel
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize(
    ("capability", "tiles", "dtype"),
    [
        (80, "SMALL", "bf16"),
        (90, "LARGE", "bf16"),
        (90, "LARGE", "fp16"),
        (120, "SMALL", "bf16"),
        (90, "SINGLE", "fp32"),
    ],
)
def test_no_kernel_spills_registers_or_exceeds_shared_memory(
    capability: int, tiles: str, dtype: str, tmp_path: Path
) -> None:
    for kernel, tile in zip(KERNELS, getattr(triton_launch, tiles), strict=True):
        compiled = compile_for(capability, kernel, tile, dtype)
        assert local_memory(compiled.asm["cubin"], tmp_path) == 0, kernel
        assert compiled.metadata.shared <= SHARED_MEMORY[capability], kernel
