"""Block-sparse attention in 8 bits on a GPU, with the Triton kernels of :mod:`flashvsr.kernels.attention_8bit`.

What is computed is defined by :mod:`flashvsr.attention.impl.plain_8bit`. Queries, keys and values are quantised at
every call, as far as the mask keeps them. ``auto`` never takes it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flashvsr import kernels
from flashvsr.attention.impl import autograd
from flashvsr.attention.impl.plain_8bit import Plain8Bit

if TYPE_CHECKING:
    from flashvsr.kernels.attention_triton_launch import Operands

MOST_OFF = 0.01
"""Relative error against the plain form up to which the kernels count as right; bf16 output rounds by 0.2 %."""

HEAD_DIMS = (32, 64, 128)
SMALLEST_BLOCK = 32


class Triton8Bit:
    """Attention with int8 products of queries and keys.

    Args:
        fp8_values: Whether weights and values are multiplied in e4m3, too; else they are in the dtype of the input.
    """

    def __init__(self, *, fp8_values: bool) -> None:
        self.fp8_values = fp8_values

    def unavailable(
        self, device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool, block_size: int = 128
    ) -> str | None:
        """Say why the kernels cannot run; None when they can.

        Args:
            device: A CUDA device, or the CPU when Triton's interpreter is on.
            dtype: bf16 or fp16; under the interpreter fp16 or fp32.
            head_dim: One of :data:`HEAD_DIMS`.
            requires_grad: False.
            block_size: A power of two, at least :data:`SMALLEST_BLOCK`.

        Returns:
            The reason in one line, or None.
        """
        if requires_grad:
            return "it has no gradients"
        if head_dim not in HEAD_DIMS:
            return f"head dim {head_dim} is not one of {', '.join(map(str, HEAD_DIMS))}"
        if block_size < SMALLEST_BLOCK or block_size & (block_size - 1):
            return f"blocks of {block_size} tokens are not of {SMALLEST_BLOCK}, 64, 128, ..."
        return kernels.unavailable("attention_8bit" if self.fp8_values else "attention_int8", device, dtype)

    def attend(
        self,
        query: Tensor,
        keys: tuple[Tensor, ...],
        values: tuple[Tensor, ...],
        block_mask: Tensor,
        *,
        block_size: int,
        scale: float,
        value_dtype: torch.dtype = torch.float8_e4m3fn,
    ) -> Tensor:
        """Attend to the kept blocks.

        Args:
            query: `[B, heads, N, D]`, any strides.
            keys: Pieces `[B, heads, M_i, D]`. One or two are read in place; of more, all but the last are joined first.
            values: As `keys`.
            block_mask: Boolean `[B, heads, N/block_size, M/block_size]`.
            block_size: Tokens per block.
            scale: Factor on the scores, positive.
            value_dtype: What values are rounded to where they are.

        Returns:
            `[B, heads, N, D]` in the dtype of `query`, stored token-major. Rows without kept blocks are zero.

        Raises:
            ValueError: If `scale` is not positive.
        """
        from flashvsr.kernels import attention_8bit_launch as launch

        operands = operands_of(query, keys, values, block_size, scale)
        return launch.forward(operands, block_mask, value_dtype if self.fp8_values else None)


def operands_of(
    query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], block_size: int, scale: float
) -> Operands:
    """What the launches take, see :func:`flashvsr.attention.impl.autograd.operands_of`.

    Raises:
        ValueError: If `scale` is not positive.
    """
    from flashvsr.kernels import attention_triton_launch as launch

    if not scale > 0:
        raise ValueError(f"attention in 8 bits takes a positive scale, got {scale}")
    operands: Operands = autograd.operands_of(launch, query, keys, values, block_size, scale)
    return operands


EIGHT_BIT = Triton8Bit(fp8_values=True)
INT8 = Triton8Bit(fp8_values=False)


@cache
def disproof(*, fp8_values: bool, device: torch.device, dtype: torch.dtype) -> str | None:
    """Have the kernels compute a small case, and compare: None if it is right, else what is wrong."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 256, 128, generator=generator).to(device, dtype) for _ in range(3))
    mask = torch.tensor([[[[True, False], [True, True]]]], device=device).expand(1, 2, 2, 2)
    kernels, plain = (kind(fp8_values=fp8_values) for kind in (Triton8Bit, Plain8Bit))
    with torch.no_grad():
        ours, right = (
            kind.attend(query, (key,), (value,), mask, block_size=128, scale=0.1) for kind in (kernels, plain)
        )
        error = (ours.float() - right.float()).norm() / right.float().norm()
    if error < MOST_OFF:  # false for a NaN
        return None
    return f"attention in 8 bits is off by {error.item():.1%} of what it should compute with this GPU and Triton"
