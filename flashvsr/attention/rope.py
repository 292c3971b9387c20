"""3-D rotary position embedding, computed on demand: no table, so no last frame."""

from __future__ import annotations

import torch
from torch import Tensor

from flashvsr.attention.blocks import TokenGrid, partition_blocks


def rope_split(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that encode time, rows and columns: 44, 42 and 42 of 128.

    Args:
        head_dim: Channels per head, even and at least 6.

    Returns:
        Three even numbers that sum to ``head_dim``.

    Raises:
        ValueError: If ``head_dim`` is odd or below 6.
    """
    if head_dim % 2 or head_dim < 6:
        raise ValueError(f"RoPE rotates pairs over three axes: head_dim is even and at least 6, got {head_dim}")
    space = 2 * (head_dim // 6)
    return head_dim - 2 * space, space, space


def rope_table(
    grid: TokenGrid, head_dim: int, *, order: str = "raster", base: float = 10000.0, device: torch.device | None = None
) -> Tensor:
    """Cosine and sine of every token's rotation.

    Args:
        grid: Size of the token grid; its ``frame_offset`` shifts time.
        head_dim: Channels per head.
        order: ``"raster"`` or ``"block"``.
        base: Base of the geometric progression of frequencies.
        device: Where to compute.

    Returns:
        `[N, head_dim/2, 2]` fp32 (cosine, sine), from angles in fp64.

    Raises:
        ValueError: If ``order`` is unknown or the grid does not divide into blocks.

    Reference:
        Wan2.1, https://arxiv.org/abs/2503.20314; RoFormer, https://arxiv.org/abs/2104.09864, equation 34.
    """
    if order not in ("raster", "block"):
        raise ValueError(f"order is 'raster' or 'block', got {order!r}")
    starts, sizes = (grid.frame_offset, 0, 0), (grid.frames, grid.rows, grid.columns)
    axes = []
    for axis, (start, size, channels) in enumerate(zip(starts, sizes, rope_split(head_dim), strict=True)):
        exponent = torch.arange(0, channels, 2, dtype=torch.float64, device=device) / channels
        position = torch.arange(start, start + size, dtype=torch.float64, device=device)
        angle = position[:, None] / base**exponent  # [size, channels/2]
        shape = [1, 1, 1, -1]
        shape[axis] = size
        axes.append(torch.stack((angle.cos(), angle.sin()), -1).float().view(*shape, 2).expand(*sizes, -1, 2))
    table = torch.cat(axes, 3)  # [T, h, w, head_dim/2, 2]
    if order == "block":
        return partition_blocks(table.flatten(3)[None])[0].unflatten(1, (-1, 2))
    return table.flatten(0, 2)


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotate adjacent pairs of channels.

    Args:
        x: `[B, N, heads, head_dim]`, any floating dtype; the rotation is done in fp32.
        table: `[N, head_dim/2, 2]` of :func:`rope_table`, or one per sample `[B, N, head_dim/2, 2]`.

    Returns:
        The shape and dtype of `x`.
    """
    pair = x.float().unflatten(3, (-1, 2))
    cos, sin = table.unsqueeze(-3).unbind(-1)  # [N, 1, head_dim/2]
    even, odd = pair.unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(3).to(x.dtype)
