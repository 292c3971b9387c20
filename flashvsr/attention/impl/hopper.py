"""Block-sparse attention on Hopper GPUs: kernels made for their units, and the Triton kernels for the rest.

What is read and written, and in which layout, is as in :mod:`flashvsr.attention.impl.triton`. The forward pass and the
gradient of the query are written in Gluon, Triton's low-level dialect; the gradients of keys and values are Triton's.

``auto`` takes it with the versions of Triton in :data:`PROVEN`, and with any other where it passes a trial, see
:mod:`flashvsr.kernels.hopper_trial`. Below a density of about 0.15 the Triton kernels are faster: each row costs a
multiprocessor of its own some microseconds, however few its blocks.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from flashvsr import kernels
from flashvsr.attention.impl.autograd import attend_with
from flashvsr.kernels.available import minor_version

BLOCK_SIZE = HEAD_DIM = 128
"""Tokens per block and channels per head that the kernel is made for; their equality lets two layouts be one."""

PROVEN = ((3, 6), (3, 8))
"""Versions of Triton with which the tests of the kernels passed on an H200, beside PyTorch 2.11."""


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
    if block_size != BLOCK_SIZE:
        return f"blocks of {block_size} tokens are not of {BLOCK_SIZE}"
    return kernels.unavailable("attention_hopper", device, dtype)


def prove(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether ``auto`` may take it where it can run, and why, in one line; the first time that may be tried out."""
    import triton

    if minor_version(triton.__version__) in PROVEN:
        return True, f"proven with triton {triton.__version__}"
    from flashvsr.kernels.hopper_trial import try_hopper

    return try_hopper(device, dtype)


@cache
def launches() -> ModuleType:
    """The module of the launches; Triton is imported here, at the first call."""
    return import_module("flashvsr.kernels.attention_hopper_launch")


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
    return attend_with(launches(), query, keys, values, block_mask, block_size=block_size, scale=scale)
