"""Block-sparse attention by gathering: plain PyTorch, any device, with backward.

Rows of blocks that keep equally many blocks form a batch for SDPA over the gathered keys, so that the memory is
proportional to what is kept. Sizing the batches takes the counts to the host, which is one synchronisation per call on
a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

BLOCKS_PER_CALL = 2048
"""Gathered key blocks per SDPA call, all rows of the call together; bounds the memory of inference."""

BLOCKS_PER_THREAD = 64
"""The same on a CPU, per thread: what is gathered stays in the caches, and in memory that needs no new pages."""


def unavailable(
    device: torch.device, dtype: torch.dtype, head_dim: int, requires_grad: bool, block_size: int = 128
) -> str | None:
    """Say why this implementation cannot run; None when it can."""
    return None


def attend(
    query: Tensor,
    keys: tuple[Tensor, ...],
    values: tuple[Tensor, ...],
    block_mask: Tensor,
    *,
    block_size: int,
    scale: float,
) -> Tensor:
    """Gather the kept blocks of each row; a mask that keeps everything needs no gathering."""
    key, value = torch.cat(keys, 2), torch.cat(values, 2)
    counts = block_mask.sum(-1).flatten()
    rows_by_count = Counter(counts.tolist())
    if rows_by_count.keys() == {block_mask.shape[3]}:
        return scaled_dot_product_attention(query, key, value, scale=scale)
    query_blocks, key_blocks, value_blocks = (_as_blocks(x, block_size) for x in (query, key, value))
    parts, rows = [], []
    blocks = BLOCKS_PER_CALL
    if query.device.type == "cpu":
        blocks = min(blocks, BLOCKS_PER_THREAD * torch.get_num_threads())
    for row, kept in _rows_of_equal_count(block_mask, counts, rows_by_count, blocks):
        q = query_blocks.index_select(0, row)
        k, v = (x.index_select(0, kept.flatten()).view(len(row), -1, x.shape[2]) for x in (key_blocks, value_blocks))
        parts.append(_attend_all(q, k, v, scale))
        rows.append(row)
    out = torch.zeros_like(query_blocks)
    if parts:
        out = out.index_copy(0, torch.cat(rows), torch.cat(parts))
    batch, heads = query.shape[:2]
    return out.unflatten(0, (batch, heads, -1)).flatten(2, 3)


def _as_blocks(x: Tensor, block_size: int) -> Tensor:
    return x.unflatten(2, (-1, block_size)).flatten(0, 2)  # [B*heads*blocks, block_size, D]


def _attend_all(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Dense attention of `[R, block_size, D]` over `[R, M, D]`.

    In bf16 on a CPU SDPA multiplies no faster than in fp32. Products and softmax written out take half the time, and
    round where the reference does.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        scores = torch.baddbmm(query.new_empty(()), query, key.transpose(1, 2), beta=0, alpha=scale)
        return torch.bmm(scores.softmax(-1), value)
    return scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=scale)[:, 0]


def _rows_of_equal_count(
    block_mask: Tensor, counts: Tensor, rows_by_count: Counter[int], blocks: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (rows `[R]`, kept key blocks `[R, count]`) as indices into the flattened blocks, without empty rows.

    At most ``blocks`` key blocks are yielded at once, but a row is never divided.
    """
    batch, heads, rows, columns = block_mask.shape
    flat = block_mask.reshape(-1, columns)
    first_column = torch.arange(batch * heads, device=flat.device).repeat_interleave(rows) * columns
    kinds = sorted(rows_by_count)
    ordered = counts.argsort(stable=True).split([rows_by_count[kept] for kept in kinds])
    for kept, rows_of_kind in zip(kinds, ordered, strict=True):
        if kept == 0:
            continue
        for row in rows_of_kind.split(max(1, blocks // kept)):
            column = flat.index_select(0, row).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :kept]
            yield row, column + first_column.index_select(0, row)[:, None]
