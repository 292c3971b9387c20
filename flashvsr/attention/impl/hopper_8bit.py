"""Block-sparse attention in 8 bits on Hopper GPUs, with the Gluon kernel of `flashvsr.kernels.attention_hopper_8bit`.

What is computed is defined by :mod:`flashvsr.attention.impl.plain_8bit`. No GPU has run the kernel yet, and neither
``auto`` nor fast mode takes it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashvsr import kernels
from flashvsr.attention.impl import hopper
from flashvsr.attention.impl.triton_8bit import operands_of


def unavailable(
    device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool, block_size: int = hopper.BLOCK_SIZE
) -> str | None:
    """Say why the kernel cannot run; None when it can.

    Args:
        device: A CUDA device of compute capability 9.0 (H100, H200).
        dtype: bf16 or fp16.
        head_dim: 128.
        requires_grad: False.
        block_size: 128.

    Returns:
        The reason in one line, or None.
    """
    if requires_grad:
        return "it has no gradients"
    if head_dim != hopper.HEAD_DIM:
        return f"head dim {head_dim} is not {hopper.HEAD_DIM}"
    if block_size != hopper.BLOCK_SIZE:
        return f"blocks of {block_size} tokens are not of {hopper.BLOCK_SIZE}"
    return kernels.unavailable("attention_hopper_8bit", device, dtype)


def attend(
    query: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    block_mask: Tensor,
    *,
    block_size: int,
    scale: float,
) -> Tensor:
    """Attend to the kept blocks, see :meth:`flashvsr.attention.impl.triton_8bit.Triton8Bit.attend`."""
    from flashvsr.kernels import attention_hopper_8bit_launch as launch

    return launch.forward(operands_of(query, keys, values, block_size, scale), block_mask)
