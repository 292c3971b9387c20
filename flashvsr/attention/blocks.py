"""Cut a grid of tokens into blocks, the unit of sparsity, and put it back.

A sequence is in *raster order* when its tokens run over (t, h, w), columns fastest, and in *block order* when the
blocks run over (t, h, w) and the tokens inside each block do. Everything but attention is per token, so a model changes
order once at each end.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from einops import rearrange
from torch import Tensor

BLOCK_SHAPE = (2, 8, 8)
"""Tokens per block along time, rows and columns."""

BLOCK_SIZE = prod(BLOCK_SHAPE)
"""Tokens per block."""


@dataclass(frozen=True)
class TokenGrid:
    """Size of the token grid of one sequence, and where it starts in the stream.

    Attributes:
        frames: Latent frames.
        rows: Token rows, one per 16 pixels.
        columns: Token columns, one per 16 pixels.
        frame_offset: Latent frames of the stream before the first one here; no upper limit.
    """

    frames: int
    rows: int
    columns: int
    frame_offset: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in the sequence."""
        return self.frames * self.rows * self.columns

    @property
    def slots(self) -> int:
        """Slots of two latent frames.

        Raises:
            ValueError: If the number of latent frames is odd.
        """
        if self.frames % BLOCK_SHAPE[0]:
            raise ValueError(
                f"{self.frames} latent frames cannot be cut into slots of {BLOCK_SHAPE[0]}; "
                "pass an even number, or use FullAttention, which takes any"
            )
        return self.frames // BLOCK_SHAPE[0]

    @property
    def blocks_hw(self) -> tuple[int, int]:
        """Block rows and block columns of a slot.

        Raises:
            ValueError: If rows or columns are not multiples of 8.
        """
        if self.rows % BLOCK_SHAPE[1] or self.columns % BLOCK_SHAPE[2]:
            raise ValueError(
                f"a grid of {self.rows}x{self.columns} tokens cannot be cut into blocks of 8x8; "
                "pad the frames to multiples of 128 pixels"
            )
        return self.rows // BLOCK_SHAPE[1], self.columns // BLOCK_SHAPE[2]


def partition_blocks(x: Tensor, block_shape: tuple[int, int, int] = BLOCK_SHAPE) -> Tensor:
    """Flatten a token grid in block order.

    Args:
        x: `[B, T, h, w, D]`, any dtype.
        block_shape: Tokens per block along time, rows and columns.

    Returns:
        `[B, T*h*w, D]`: blocks over (t, h, w), tokens over (t, h, w) inside each.

    Raises:
        ValueError: If the grid is not a multiple of the block.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, locality-constrained sparse attention.
    """
    if any(size % block for size, block in zip(x.shape[1:4], block_shape, strict=True)):
        raise ValueError(f"a token grid of {tuple(x.shape[1:4])} is not a multiple of the block {block_shape}")
    bt, bh, bw = block_shape
    return rearrange(x, "b (t bt) (h bh) (w bw) d -> b (t h w bt bh bw) d", bt=bt, bh=bh, bw=bw)


def unpartition_blocks(
    x: Tensor, grid: tuple[int, int, int], block_shape: tuple[int, int, int] = BLOCK_SHAPE
) -> Tensor:
    """Put a sequence in block order back on its grid: the inverse of :func:`partition_blocks`.

    Args:
        x: `[B, T*h*w, D]` in block order.
        grid: (T, h, w) in tokens.
        block_shape: Tokens per block along time, rows and columns.

    Returns:
        `[B, T, h, w, D]`.

    Raises:
        ValueError: If the grid is not a multiple of the block or does not hold the sequence.
    """
    if prod(grid) != x.shape[1] or any(size % block for size, block in zip(grid, block_shape, strict=True)):
        raise ValueError(f"{x.shape[1]} tokens in blocks of {block_shape} do not fill a grid of {tuple(grid)}")
    bt, bh, bw = block_shape
    t, h, w = grid[0] // bt, grid[1] // bh, grid[2] // bw
    return rearrange(x, "b (t h w bt bh bw) d -> b (t bt) (h bh) (w bw) d", t=t, h=h, w=w, bt=bt, bh=bh, bw=bw)
