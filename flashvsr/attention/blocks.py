"""Cut a grid of tokens into blocks, the unit of sparsity, and put it back.

A sequence is in *raster order* when its tokens run over (t, h, w), columns fastest, and in *block order* when the
blocks run over (t, h, w) and the tokens inside each block do. Everything but attention is per token, so a model changes
order once at each end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import pad

BLOCK_SHAPE = (2, 8, 8)
"""Tokens per block along time, rows and columns."""

BLOCK_SIZE = prod(BLOCK_SHAPE)
"""Tokens per block."""


@dataclass(frozen=True)
class TokenGrid:
    """Size of the token grid of one sequence, and where it starts in the stream.

    Attributes:
        frames: Latent frames.
        rows: Token rows, in FlashVSR one per 16 pixels.
        columns: Token columns, likewise.
        frame_offset: Latent frames of the stream before the first one here; no upper limit.
        content: Frames, rows and columns that are not padding, from the first of each on; None for all. Sparse layers
            let the rest take no part.

    Raises:
        ValueError: If a size is below 1, `frame_offset` below 0, or `content` leaves a whole block of padding.
    """

    frames: int
    rows: int
    columns: int
    frame_offset: int = 0
    content: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        sizes = (self.frames, self.rows, self.columns)
        if min(sizes) < 1 or self.frame_offset < 0:
            raise ValueError(f"a grid holds tokens and starts at frame 0 or later, got {self}")
        if self.content is None:
            return
        padding = [size - inner for size, inner in zip(sizes, self.content, strict=True)]
        if min(self.content) < 1 or any(not 0 <= n < block for n, block in zip(padding, BLOCK_SHAPE, strict=True)):
            raise ValueError(
                f"content {self.content} leaves padding of {padding} in a grid of {sizes}: pad at the end of each "
                f"axis, by less than a block {BLOCK_SHAPE}"
            )

    @classmethod
    def padded(cls, frames: int, rows: int, columns: int, frame_offset: int = 0) -> TokenGrid:
        """The grid of whole blocks that :func:`pad_to_blocks` makes of these sizes."""
        sizes = [-(-size // block) * block for size, block in zip((frames, rows, columns), BLOCK_SHAPE, strict=True)]
        return cls(sizes[0], sizes[1], sizes[2], frame_offset, (frames, rows, columns))

    def key_mask(self, device: torch.device | str = "cpu") -> Tensor | None:
        """Which tokens are not padding, boolean `[tokens]` in block order; None when all are not."""
        sizes = (self.frames, self.rows, self.columns)
        if self.content is None or self.content == sizes:
            return None
        make = _content_mask.__wrapped__ if torch.compiler.is_compiling() else _content_mask
        return make(self.content, sizes, BLOCK_SHAPE, torch.device(device))

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


def pad_to_blocks(x: Tensor, block_shape: tuple[int, int, int] = BLOCK_SHAPE) -> tuple[Tensor, Tensor]:
    """Fill a token grid up to whole blocks with zeros, at the end of each axis.

    With the mask as ``key_mask`` of :func:`~flashvsr.attention.block_sparse_attention` the padding takes no part. For
    a layer the grid says the same: :meth:`TokenGrid.padded`.

    Args:
        x: `[B, T, h, w, D]`.
        block_shape: Tokens per block along time, rows and columns.

    Returns:
        `[B, T', h', w', D]`, `x` itself when it is whole blocks; and where `x` is in it, boolean `[T'*h'*w']` in block
        order.
    """
    sizes = tuple(x.shape[1:4])
    whole = tuple(-(-size // block) * block for size, block in zip(sizes, block_shape, strict=True))
    after = [n for size, full in zip(reversed(sizes), reversed(whole), strict=True) for n in (0, full - size)]
    padded = x if whole == sizes else pad(x, [0, 0, *after])
    make = _content_mask.__wrapped__ if torch.compiler.is_compiling() else _content_mask
    return padded, make(sizes, whole, tuple(block_shape), x.device)


def crop_from_blocks(x: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Cut the padding of :func:`pad_to_blocks` off.

    Args:
        x: `[B, T', h', w', D]`.
        size: (T, h, w) that was padded.

    Returns:
        `[B, T, h, w, D]`, a view.

    Raises:
        ValueError: If `size` is larger than the grid.
    """
    if any(inner > full for inner, full in zip(size, x.shape[1:4], strict=True)):
        raise ValueError(f"a grid of {tuple(x.shape[1:4])} tokens holds no {tuple(size)}")
    return x[:, : size[0], : size[1], : size[2]]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # it may be made while streaming and be used again in training
def _content_mask(
    content: tuple[int, int, int], sizes: tuple[int, int, int], block_shape: tuple[int, int, int], device: torch.device
) -> Tensor:
    mask = torch.zeros(1, *sizes, 1, dtype=torch.bool)
    mask[:, : content[0], : content[1], : content[2]] = True
    return partition_blocks(mask, block_shape).flatten().to(device)
