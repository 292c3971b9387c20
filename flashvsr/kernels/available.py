"""Which kernel can run where, and why not: one question for every operation that has more than one path."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch

OLDEST_GLUON = (3, 6)
"""The oldest Triton whose Gluon has what the Hopper kernels use."""

RAN_ON = ((9, 0),)
"""Compute capabilities on which the tests of the kernels passed: H100 and H200."""

COMPILED_FOR = ((8, 0), (8, 6), (8, 9), (10, 0), (12, 0))
"""Compute capabilities for which they were only compiled, within registers and shared memory of such GPUs."""

NO_GPU_YET = ("attention_8bit", "attention_int8", "attention_hopper_8bit")
"""Kernels that no GPU has run: they are compiled for all of these; the tests of the first two pass under Triton's
interpreter, which does not run the last one."""

CUDNN_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class ImplUnavailableError(RuntimeError):
    """A named implementation cannot run here. The message says why; nothing else ran in its place."""


def available(kernel: str, device: torch.device | str, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether a kernel can run on a device for a dtype.

    What a single call adds (gradients, strides, sizes) is checked by the operation that calls the kernel.

    Args:
        kernel: One of :data:`KERNELS`.
        device: Where the tensors are.
        dtype: Their dtype.

    Returns:
        True or False, and the reason in one line.

    Raises:
        ValueError: If `kernel` is unknown.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel is one of {', '.join(KERNELS)}; got {kernel!r}")
    reason = KERNELS[kernel](torch.device(device), dtype)
    can = "no GPU has run it yet" if kernel in NO_GPU_YET else "it can run here"
    return reason is None, reason or can


def unavailable(kernel: str, device: torch.device | str, dtype: torch.dtype) -> str | None:
    """The reason of :func:`available` when a kernel cannot run, else None."""
    runs, reason = available(kernel, device, dtype)
    return None if runs else reason


def proof(device: torch.device | str) -> str:
    """What is known of the Triton kernels on GPUs such as this one, in one line."""
    capability = torch.cuda.get_device_capability(device)
    name = f"compute capability {capability[0]}.{capability[1]}"
    if capability in RAN_ON:
        return f"their tests passed on GPUs of {name}"
    if capability in COMPILED_FOR:
        return f"for {name} they were only compiled: registers and shared memory suffice, but no such GPU has run them"
    return f"nobody has tried them for {name}"


def takes_kernel(impl: str, reason: str | None, *, kernel: str = "triton") -> bool:
    """Whether the kernel of an operation runs, and not plain PyTorch.

    Args:
        impl: ``"auto"``, ``"plain"`` or the name of the kernel.
        reason: Why the kernel cannot run; None when it can.
        kernel: What `impl` calls the kernel.

    Raises:
        ImplUnavailableError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if impl not in ("auto", "plain", kernel):
        raise ValueError(f"impl is 'auto', 'plain' or {kernel!r}, got {impl!r}")
    if impl == kernel and reason:
        raise ImplUnavailableError(f"impl {kernel!r} cannot run here: {reason}")
    return impl != "plain" and reason is None


def _attention_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"{dtype} is not bfloat16, float16 or float32"
    if not _has_triton():
        return "triton is not installed (pip install triton)"
    if device.type == "cpu":
        from triton import knobs

        if not knobs.runtime.interpret:
            return "needs an NVIDIA GPU (on a CPU only Triton's interpreter runs it: TRITON_INTERPRET=1)"
        return "Triton's interpreter gets bfloat16 products wrong" if dtype == torch.bfloat16 else None
    if device.type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return f"needs an NVIDIA GPU and a CUDA build of torch, not device '{device}'"
    major, minor = torch.cuda.get_device_capability(device)
    return None if major >= 8 else f"needs compute capability 8.0, this GPU has {major}.{minor}"


def _attention_int8(device: torch.device, dtype: torch.dtype) -> str | None:
    reason = _attention_triton(device, dtype)
    if reason is None and device.type == "cuda" and dtype == torch.float32:
        return "torch.float32 is not bfloat16 or float16"
    return reason


def _attention_8bit(device: torch.device, dtype: torch.dtype) -> str | None:
    reason = _attention_int8(device, dtype)
    if reason is not None or device.type != "cuda":
        return reason
    major, minor = torch.cuda.get_device_capability(device)
    return None if (major, minor) >= (8, 9) else f"needs compute capability 8.9, this GPU has {major}.{minor}"


def _attention_hopper(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype not in (torch.bfloat16, torch.float16):
        return f"{dtype} is not bfloat16 or float16"
    if device.type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return f"needs an NVIDIA Hopper GPU and a CUDA build of torch, not device '{device}'"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != (9, 0):
        return f"needs compute capability 9.0 (Hopper), this GPU has {major}.{minor}"
    if not _has_triton():
        return "triton is not installed (pip install triton)"
    import triton

    if minor_version(triton.__version__) < OLDEST_GLUON:
        return f"needs triton {OLDEST_GLUON[0]}.{OLDEST_GLUON[1]}, this is {triton.__version__}"
    return "Triton's interpreter does not run Gluon" if triton.knobs.runtime.interpret else None


def _triton_on_gpu(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"it needs a GPU, not device '{device}'"
    return None if _has_triton() else "triton is not installed (pip install triton)"


def _fp8_product(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"it needs a GPU, not device '{device}'"
    if dtype != torch.bfloat16:
        return f"its results are bfloat16, not {dtype}"
    major, minor = torch.cuda.get_device_capability(device)
    return None if (major, minor) >= (8, 9) else f"needs compute capability 8.9, this GPU has {major}.{minor}"


def _fused_gelu(device: torch.device, dtype: torch.dtype) -> str | None:
    return None if device.type == "cuda" else f"it needs a GPU, not device '{device}'"


def _fused_convolution(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"it needs a GPU, not device '{device}'"
    if torch.version.hip is not None or not torch.backends.cudnn.is_available():
        return "this build of torch has no cuDNN"
    if not torch.backends.cudnn.enabled:
        return "cuDNN is switched off (torch.backends.cudnn.enabled)"
    return None if dtype in CUDNN_DTYPES else f"cuDNN takes no {dtype}"


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def minor_version(version: str) -> tuple[int, int]:
    """``(3, 8)`` of ``"3.8.0"``."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


KERNELS: dict[str, Callable[[torch.device, torch.dtype], str | None]] = {
    "attention_hopper": _attention_hopper,
    "attention_triton": _attention_triton,
    "attention_8bit": _attention_8bit,
    "attention_int8": _attention_int8,
    "attention_hopper_8bit": _attention_hopper,
    "norm_rope": _triton_on_gpu,
    "select": _triton_on_gpu,
    "residual": _triton_on_gpu,
    "quantize": _triton_on_gpu,
    "fp8_product": _fp8_product,
    "fused_gelu": _fused_gelu,
    "fused_convolution": _fused_convolution,
}
"""The kernels, each with the check that says why it cannot run."""
