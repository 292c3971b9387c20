"""A trial of the Hopper kernels: does what this Triton makes of them compute what it should, on this GPU?

Gluon may change with every version of Triton. A version that nobody has run is tried once, on a small case, in a
process of its own, since a kernel that hangs or crashes would take the caller with it. The verdict is kept on disk.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SECONDS = 120.0
"""How long a trial may take: it starts PyTorch and compiles two kernels, some ten seconds."""

BLOCK = 128
PASSED, FAILED, UNDECIDED = "passed", "failed", "undecided"


def try_hopper(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether the kernels passed their trial on a GPU, which is held now if it never was.

    Args:
        device: A Hopper GPU.
        dtype: bf16 or fp16.

    Returns:
        True or False, and the verdict in one line. It is kept under :func:`verdict_path`, but for that of a trial that
        could not be held: no memory was left on the GPU, or no process could be started.
    """
    path = verdict_path(device, dtype)
    found = _read(path)
    if found is None:
        logger.info("the Hopper kernels are tried with this version of Triton, once")
        found = _hold(device, dtype)
        if found["verdict"] != UNDECIDED:
            _write(path, found)
    said = f"a trial on this GPU with triton {_triton_version()} {found['verdict']}"
    if found["verdict"] == PASSED:
        return True, said
    kept = f" (kept in {path})" if found["verdict"] == FAILED else ""
    return False, f"{said}: {found['words']}{kept}"


def verdict_path(device: torch.device, dtype: torch.dtype) -> Path:
    """Where the verdict is kept: another file for another Triton, PyTorch, driver, GPU, dtype or kernel source."""
    sources = sorted(Path(__file__).parent.glob("attention_*.py"))
    what = [
        _triton_version(),
        torch.__version__,
        _driver_version(),
        torch.cuda.get_device_name(device),
        str(dtype),
        *(source.read_text(encoding="utf-8") for source in sources),
    ]
    key = hashlib.sha256("\0".join(what).encode()).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "flashvsr" / f"hopper_{key}.json"


def _driver_version() -> str:
    """CUDA version of the driver; PyTorch does not tell."""
    number = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    return str(number.value)


def _triton_version() -> str:
    import triton

    return str(triton.__version__)


def _read(path: Path) -> dict[str, Any] | None:
    """The verdict in a file; None if there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("verdict") in (PASSED, FAILED) else None


def _write(path: Path, found: dict[str, Any]) -> None:
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        logger.warning(
            "the verdict on the Hopper kernels could not be kept (%s): another process tries them anew", error
        )


def _hold(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Run this file as a program and return what it prints, or what became of it."""
    index = torch.cuda.current_device() if device.index is None else device.index
    command = [sys.executable, "-m", __name__, str(index), str(dtype).removeprefix("torch.")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"verdict": FAILED, "words": f"it did not end within {SECONDS:.0f} s"}
    except OSError as error:
        return {"verdict": UNDECIDED, "words": str(error)}
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return dict(json.loads(lines[-1]))
    last = (done.stderr.strip().splitlines() or ["without a word"])[-1]
    return {"verdict": FAILED, "words": f"its process ended with status {done.returncode}: {last}"}


def hold_here(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Compute a small case with the kernels, several times, and compare it with plain attention in fp32."""
    try:
        errors = [measure_errors(device, dtype, seed) for seed in range(3)]
    except torch.OutOfMemoryError as error:
        return {"verdict": UNDECIDED, "words": str(error).split(". ")[0]}
    worst = {name: max(error[name] for error in errors) for name in errors[0]}
    most = 4 * torch.finfo(dtype).eps
    wrong = {name: error for name, error in worst.items() if not error <= most}  # NaN is wrong, too
    words = ", ".join(f"{name} errs by {error:.1e}" for name, error in (wrong or worst).items())
    return {"verdict": FAILED if wrong else PASSED, "words": words}


def measure_errors(device: torch.device, dtype: torch.dtype, seed: int) -> dict[str, float]:
    """Relative errors of output and gradient of the query, over rows that keep nothing, one, some and all blocks."""
    from flashvsr.kernels import attention_hopper_launch as launch

    generator = torch.Generator(device).manual_seed(seed)

    def draw(blocks: int) -> Tensor:
        x = torch.randn(1, blocks * BLOCK, 2, BLOCK, generator=generator, device=device)
        return x.to(dtype).transpose(1, 2)

    rows, columns, scale = 6, (9, 4), BLOCK**-0.5
    query, grad = draw(rows), draw(rows)
    keys, values = (tuple(draw(blocks) for blocks in columns) for _ in range(2))
    mask = torch.rand(1, 2, rows, sum(columns), generator=generator, device=device) < 0.5
    mask[:, :, :3] = False
    mask[:, :, 1, 5] = mask[:, :, 2] = True
    lists = launch.BlockLists.of(mask)
    operands = launch.Operands(query, keys, values, BLOCK, scale)
    out, lse = launch.forward(operands, lists)
    slope = launch.grad_query(operands, grad, lse, launch.dot_rows(out, grad, BLOCK), lists)
    wide = query.float().requires_grad_()
    with torch.enable_grad():
        exact = _attend_plainly(wide, torch.cat(keys, 2).float(), torch.cat(values, 2).float(), mask, scale)
        (exact_slope,) = torch.autograd.grad(exact, wide, grad.float())
    pairs = {"output": (out, exact.detach()), "gradient": (slope, exact_slope)}
    return {name: ((got - true).norm() / true.norm()).item() for name, (got, true) in pairs.items()}


def _attend_plainly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    for dim in (2, 3):
        mask = mask.repeat_interleave(BLOCK, dim)
    scores = (query @ key.transpose(2, 3) * scale).masked_fill(~mask, -1e30)
    return (scores.softmax(-1) * mask) @ value


if __name__ == "__main__":
    found = hold_here(torch.device("cuda", int(sys.argv[1])), getattr(torch, sys.argv[2]))
    sys.stdout.write(json.dumps(found) + "\n")
