"""Block-sparse attention on Hopper GPUs: kernels made for their units, and the Triton kernels for the rest.

What is read and written, and in which layout, is as in :mod:`flashvsr.attention.impl.triton`. The forward pass and the
gradient of the query are written in Gluon, Triton's low-level dialect; the gradients of keys and values are Triton's.

``auto`` prefers it with Triton 3.6, with which its tests passed on an H200. Below a density of about 0.15 the
Triton kernels are faster: each row costs a multiprocessor of its own some microseconds, however few its blocks.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from flashvsr.attention.impl.autograd import attend_with

BLOCK_SIZE = HEAD_DIM = 128
"""Tokens per block and channels per head that the kernel is made for; their equality lets two layouts be one."""

VERSIONS = ("3.6", "3.7", "3.8")
"""Versions of Triton with whose Gluon, which may change with every version, the kernels compile."""

RAN_WITH = ("3.6",)
"""Those of them with which they ran and their tests passed."""


def unavailable(
    device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool, block_size: int = BLOCK_SIZE
) -> str | None:
    """Say why the kernel cannot run; None when it can.

    Args:
        device: A CUDA device of compute capability 9.0 (H100, H200).
        dtype: bf16 or fp16.
        head_dim: 128.
        requires_grad: Of no matter here.
        block_size: 128.

    Returns:
        The reason in one line, or None.
    """
    if head_dim != HEAD_DIM:
        return f"head dim {head_dim} is not {HEAD_DIM}"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"{dtype} is not bfloat16 or float16"
    if block_size != BLOCK_SIZE:
        return f"blocks of {block_size} tokens are not of {BLOCK_SIZE}"
    if device.type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return f"needs an NVIDIA Hopper GPU and a CUDA build of torch, not device '{device}'"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != (9, 0):
        return f"needs compute capability 9.0 (Hopper), this GPU has {major}.{minor}"
    return _unavailable_with_this_triton()


def doubt() -> str | None:
    """Say why ``auto`` passes it over although it can run; None with a Triton that has run it."""
    import triton

    if _minor(triton.__version__) in RAN_WITH:
        return None
    return f"triton {triton.__version__} compiles it, but was never seen to run it; name it to try"


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _unavailable_with_this_triton() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    import triton

    if _minor(triton.__version__) not in VERSIONS:
        return f"triton {triton.__version__} is not one of {', '.join(VERSIONS)}, for whose Gluon the kernel is written"
    return "Triton's interpreter does not run Gluon" if triton.knobs.runtime.interpret else None


def attend(
    query: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    block_mask: Tensor,
    *,
    block_size: int,
    scale: float,
) -> Tensor:
    """Attend to the kept blocks; products in the dtype of the input, sums and softmax in fp32.

    Args:
        query: `[B, heads, N, 128]`; like all below it is read in place when D is contiguous and the other strides and
            the address are multiples of 16 bytes.
        keys: Pieces `[B, heads, M_i, 128]`. One or two are read in place; of more, all but the last are joined first.
        values: As `keys`.
        block_mask: Boolean `[B, heads, N/128, M/128]`; one expanded over B or heads is listed once.
        block_size: 128.
        scale: Factor on the scores, positive.

    Returns:
        `[B, heads, N, 128]` in the dtype of `query`, stored token-major (a view of contiguous `[B, N, heads, 128]`).
        Rows without kept blocks are zero and send no gradient.

    Raises:
        ValueError: If `scale` is not positive.

    Reference:
        FlashAttention-3, https://arxiv.org/abs/2407.08608.
    """
    if not scale > 0:
        raise ValueError(f"impl 'hopper' takes a positive scale, got {scale}")
    from flashvsr.kernels import attention_hopper_launch as launch  # Triton is imported here, at the first call

    return attend_with(launch, query, keys, values, block_mask, block_size=block_size, scale=scale)
