"""Norm and 3-D rotary position embedding of queries and keys.

The embedding is computed on demand: no table, so no last frame. Norm and rotation always come together, and pass over
memory once on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashvsr.attention.blocks import TokenGrid, partition_blocks
from flashvsr.kernels import takes_kernel, unavailable


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
        `[N, head_dim/2, 2]` fp32 (cosine, sine), from angles in fp64. It carries `order` as an attribute of that name,
        by which a layer tells a table in the wrong order; what is computed from it (``.to(device)``) carries none.

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
        table = partition_blocks(table.flatten(3)[None])[0].unflatten(1, (-1, 2))
    else:
        table = table.flatten(0, 2)
    if not torch.compiler.is_compiling():
        table.__dict__["order"] = order
    return table


def check_rope(rope: Tensor, tokens: int, head_dim: int, order: str) -> None:
    """Refuse a table of another size, or one that says it is in another order; its values are not looked at.

    Args:
        rope: `[N, D/2, 2]`, or one per sample `[B, N, D/2, 2]`.
        tokens: N that is expected.
        head_dim: D that is expected.
        order: ``"raster"`` or ``"block"``, as expected.

    Raises:
        ValueError: If it does not fit.
    """
    if tuple(rope.shape[-3:]) != (tokens, head_dim // 2, 2):
        raise ValueError(
            f"rope is [{tokens}, {head_dim // 2}, 2], of rope_table with the same grid and a head dim of {head_dim}; "
            f"got {list(rope.shape)}"
        )
    found = None if torch.compiler.is_compiling() else getattr(rope, "order", None)
    if found not in (None, order):
        raise ValueError(
            f"this layer takes tokens in {order} order, the rope table is in {found} order: "
            f"pass rope_table(..., order={order!r})"
        )


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


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, impl: str = "auto") -> Tensor:
    """Root-mean-square norm over the last axis: in fp32, rounded to the dtype of the input, then weighted.

    Args:
        x: `[B, N, dim]`, any floating dtype.
        weight: `[dim]`.
        eps: Added to the mean square.
        impl: As for :func:`norm_rope`.

    Returns:
        The shape and dtype of `x`.

    Raises:
        ImplUnavailableError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.

    Reference:
        https://arxiv.org/abs/1910.07467, equation 4; the rounding is that of Wan2.1.
    """
    if takes_kernel(impl, _kernel_unavailable(x, weight)):
        from flashvsr.kernels.norm_rope import launch_norm_rope

        return launch_norm_rope(x, weight, eps)
    wide = x.float()
    normed = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return (normed * weight).to(x.dtype)  # under autocast the weight is fp32


def norm_rope(x: Tensor, weight: Tensor, table: Tensor, *, heads: int, eps: float, impl: str = "auto") -> Tensor:
    """Norm over all heads together, then rotate each head.

    Args:
        x: `[B, N, dim]`, projected queries or keys.
        weight: `[dim]`, of the norm.
        table: `[N, D/2, 2]` of :func:`~flashvsr.attention.rope_table`, with ``D = dim / heads``.
        heads: Attention heads.
        eps: Of the norm.
        impl: ``"plain"`` (any device, with backward), ``"triton"`` (one kernel on a GPU, forward only), or ``"auto"``:
            the kernel where it can run. Both round at the same places.

    Returns:
        `[B, N, heads, D]` in the dtype of `x`.

    Raises:
        ImplUnavailableError: If the kernel is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if takes_kernel(impl, _kernel_unavailable(x, weight)):
        from flashvsr.kernels.norm_rope import launch_norm_rope

        return launch_norm_rope(x, weight, eps, table, heads).unflatten(2, (heads, -1))
    return apply_rope(rms_norm(x, weight, eps, impl="plain").unflatten(2, (heads, -1)), table)


def _kernel_unavailable(x: Tensor, weight: Tensor) -> str | None:
    if torch.compiler.is_compiling():
        return "torch.compile fuses the plain form by itself"
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return "it has no backward pass"
    return unavailable("norm_rope", x.device, x.dtype)
