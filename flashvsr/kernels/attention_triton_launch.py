"""Launches of the Triton kernels of block-sparse attention: tiles, block lists, grids. Importing it needs Triton."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from flashvsr.kernels import attention_triton as kernels

LOG2_E = 1.4426950408889634

FULLEST_FIRST_UP_TO = 4096
"""Programs per launch up to which each head's fullest rows run first. With few programs that shortens the tail; with
many the tail does not matter, and neighbouring rows, which read the same keys, had better stay together."""


class Tile(NamedTuple):
    """How one program works: the rows it owns, columns per step of its loop, warps, and stages of the load pipeline."""

    rows: int
    columns: int
    warps: int
    stages: int


class Tiles(NamedTuple):
    """Tiles of the three kernels that walk lists."""

    forward: Tile
    grad_query: Tile
    grad_key_value: Tile


# No kernel spills registers at head dim 128, and every one fits the shared memory of its class of GPUs.
LARGE = Tiles(Tile(128, 128, 8, 3), Tile(128, 64, 8, 3), Tile(128, 64, 8, 3))  # 227 KB and more: sm_90, sm_100
SMALL = Tiles(Tile(128, 64, 8, 3), Tile(128, 32, 8, 3), Tile(64, 32, 8, 3))  # 99 KB and more: sm_80 to sm_89, sm_120
SINGLE = Tiles(
    Tile(32, 32, 8, 1), Tile(32, 32, 8, 1), Tile(32, 32, 8, 1)
)  # fp32, whose products no tensor core computes


def choose_tiles(device: torch.device, dtype: torch.dtype) -> Tiles:
    """Tiles for a dtype on a device, chosen by the shared memory that one program may take."""
    if device.type == "cpu":  # the interpreter, which is fastest with few large steps
        return LARGE
    if dtype == torch.float32:
        return SINGLE
    properties: Any = torch.cuda.get_device_properties(device)  # whose type stub lacks this field in PyTorch 2.14
    return LARGE if properties.shared_memory_per_block_optin >= 224 * 1024 else SMALL


class BlockLists(NamedTuple):
    """The kept columns of every mask row, one list for all where the mask is expanded over B or heads."""

    counts: Tensor  # [B or 1, heads or 1, rows] int32
    indices: Tensor  # [B or 1, heads or 1, rows, columns] int32, ascending; undefined after the first `count`

    @classmethod
    def of(cls, block_mask: Tensor) -> BlockLists:
        """List a boolean mask `[B, heads, rows, columns]` of any strides, on its device and without synchronisation."""
        for dim in (0, 1):
            if block_mask.stride(dim) == 0:
                block_mask = block_mask.narrow(dim, 0, 1)
        batch, heads, rows, columns = block_mask.shape
        counts = torch.empty(batch, heads, rows, dtype=torch.int32, device=block_mask.device)
        indices = torch.empty(batch, heads, rows, columns, dtype=torch.int32, device=block_mask.device)
        with torch.cuda.device_of(block_mask):
            kernels.list_kept_blocks[rows, batch * heads](
                block_mask.view(torch.uint8),
                counts,
                indices,
                *block_mask.stride(),
                heads,
                rows,
                columns,
                CHUNK=1024,
                enable_fp_fusion=True,
            )
        return cls(counts, indices)

    @property
    def strides(self) -> tuple[int, int]:
        """Strides over B and heads counted in rows; 0 where one list serves all."""
        batch, heads, rows = self.counts.shape
        return (heads * rows if batch > 1 else 0), (rows if heads > 1 else 0)

    def fullest_first(self, programs: int) -> Tensor | None:
        """Rows in the order in which to run them, int32 like ``counts``; None to take them as they come."""
        if programs > FULLEST_FIRST_UP_TO:
            return None
        return self.counts.argsort(-1, descending=True).to(torch.int32)


class Operands(NamedTuple):
    """What all launches of one attention call share; every tensor is `[B, heads, tokens, D]` with D contiguous."""

    query: Tensor
    keys: tuple[Tensor, ...]  # one or two pieces
    values: tuple[Tensor, ...]
    block_size: int
    scale: float

    @property
    def scale_log2(self) -> float:
        """Factor that takes products to logits in base 2."""
        return self.scale * LOG2_E

    def pieces(self) -> tuple[list[Tensor], list[int]]:
        """Key and value of the first and the second piece, the first twice when there is one; and their strides."""
        tensors = [self.keys[0], self.values[0], self.keys[-1], self.values[-1]]
        return tensors, [stride for x in tensors for stride in x.stride()[:3]]

    def constants(self, tile: Tile) -> dict[str, int]:
        """Compile-time arguments of a kernel that walks lists."""
        return {
            "BLOCK": self.block_size,
            "ROWS": min(tile.rows, self.block_size),
            "COLUMNS": min(tile.columns, self.block_size),
            "D": self.query.shape[3],
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            "enable_fp_fusion": True,
        }

    def grid(self, rows: Tensor, tile: Tile) -> tuple[int, int]:
        """One program per tile of rows, batch element and head."""
        batch, heads, tokens, _ = rows.shape
        return tokens // min(tile.rows, self.block_size), batch * heads


def empty_token_major(like: Tensor) -> Tensor:
    """Uninitialised `[B, heads, N, D]` over contiguous `[B, N, heads, D]`."""
    batch, heads, tokens, head_dim = like.shape
    return like.new_empty(batch, tokens, heads, head_dim).transpose(1, 2)


def forward(operands: Operands, lists: BlockLists) -> tuple[Tensor, Tensor]:
    """Return the output `[B, heads, N, D]` and the log2-sum-exp2 of its logits `[B, heads, N]` fp32."""
    query = operands.query
    tile = choose_tiles(query.device, query.dtype).forward
    grid = operands.grid(query, tile)
    out = empty_token_major(query)
    lse = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    order = lists.fullest_first(grid[0] * grid[1])
    pieces, piece_strides = operands.pieces()
    with torch.cuda.device_of(query):
        kernels.attend_forward[grid](
            query, *pieces, out, lse,
            lists.counts, lists.indices, lists.counts if order is None else order,
            *query.stride()[:3], *piece_strides, *out.stride()[:3],
            query.shape[1], *lists.indices.shape[2:], *lists.strides, pieces[0].shape[2] // operands.block_size,
            operands.scale_log2,
            PIECES=len(operands.keys), ORDERED=order is not None, **operands.constants(tile),
        )  # fmt: skip
    return out, lse


def dot_rows(out: Tensor, grad: Tensor, block_size: int) -> Tensor:
    """Return the sum over D of out * grad, `[B, heads, N]` fp32."""
    batch, heads, tokens, head_dim = out.shape
    rows = min(block_size, 64)
    delta = torch.empty(batch, heads, tokens, dtype=torch.float32, device=out.device)
    with torch.cuda.device_of(out):
        kernels.dot_rows[tokens // rows, batch * heads](
            out,
            grad,
            delta,
            *out.stride()[:3],
            *grad.stride()[:3],
            heads,
            tokens,
            ROWS=rows,
            D=head_dim,
            enable_fp_fusion=True,
        )
    return delta


def grad_query(operands: Operands, grad: Tensor, lse: Tensor, delta: Tensor, lists: BlockLists) -> Tensor:
    """Return the gradient of the query from the gradient of the output."""
    query = operands.query
    tile = choose_tiles(query.device, query.dtype).grad_query
    grid = operands.grid(query, tile)
    out = empty_token_major(query)
    order = lists.fullest_first(grid[0] * grid[1])
    pieces, piece_strides = operands.pieces()
    with torch.cuda.device_of(query):
        kernels.grad_of_query[grid](
            query, *pieces, grad, lse, delta, out,
            lists.counts, lists.indices, lists.counts if order is None else order,
            *query.stride()[:3], *piece_strides, *grad.stride()[:3], *out.stride()[:3],
            query.shape[1], *lists.indices.shape[2:], *lists.strides, pieces[0].shape[2] // operands.block_size,
            operands.scale, operands.scale_log2,
            PIECES=len(operands.keys), ORDERED=order is not None, **operands.constants(tile),
        )  # fmt: skip
    return out


def grad_key_value(
    operands: Operands, piece: int, grad: Tensor, lse: Tensor, delta: Tensor, lists: BlockLists
) -> tuple[Tensor, Tensor]:
    """Return the gradients of one piece of keys and values; ``lists`` are those of the transposed mask."""
    query, key, value = operands.query, operands.keys[piece], operands.values[piece]
    tile = choose_tiles(query.device, query.dtype).grad_key_value
    first_row = sum(x.shape[2] for x in operands.keys[:piece]) // operands.block_size
    grad_of_key, grad_of_value = empty_token_major(key), empty_token_major(value)
    with torch.cuda.device_of(query):
        kernels.grad_of_key_value[operands.grid(key, tile)](
            query, key, value, grad, lse, delta, grad_of_key, grad_of_value, lists.counts, lists.indices,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *grad.stride()[:3],
            *grad_of_key.stride()[:3],
            query.shape[1], lists.indices.shape[3], first_row, *lists.strides, operands.scale, operands.scale_log2,
            **operands.constants(tile),
        )  # fmt: skip
    return grad_of_key, grad_of_value
