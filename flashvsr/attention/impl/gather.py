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
    key_mask: Tensor | None = None,
) -> Tensor:
    """Gather the kept blocks of each row; a mask that keeps everything needs no gathering."""
    key, value = torch.cat(keys, 2), torch.cat(values, 2)
    counts = block_mask.sum(-1).flatten()
    rows_by_count = Counter(counts.tolist())
    if rows_by_count.keys() == {block_mask.shape[3]} and key_mask is None:
        return scaled_dot_product_attention(query, key, value, scale=scale)
    if key_mask is not None:  # a hidden key must not be read: 0 times NaN is NaN
        key, value = (x.masked_fill(~key_mask[:, None], 0.0) for x in (key, value))
    query_blocks, key_blocks, value_blocks = (_as_blocks(x, block_size) for x in (query, key, value))
    parts, rows = [], []
    blocks = BLOCKS_PER_CALL
    if query.device.type == "cpu":
        blocks = min(blocks, BLOCKS_PER_THREAD * torch.get_num_threads())
    for row, kept in _rows_of_equal_count(block_mask, counts, rows_by_count, blocks):
        q = query_blocks.index_select(0, row)
        k, v = (x.index_select(0, kept.flatten()).view(len(row), -1, x.shape[2]) for x in (key_blocks, value_blocks))
        parts.append(_attend_all(q, k, v, scale, _gather_mask(key_mask, kept, block_size)))
        rows.append(row)
    out = torch.zeros_like(query_blocks)
    if parts:
        out = out.index_copy(0, torch.cat(rows), torch.cat(parts))
    batch, heads = query.shape[:2]
    return out.unflatten(0, (batch, heads, -1)).flatten(2, 3)


def _as_blocks(x: Tensor, block_size: int) -> Tensor:
    return x.unflatten(2, (-1, block_size)).flatten(0, 2)  # [B*heads*blocks, block_size, D]


def _gather_mask(key_mask: Tensor | None, kept: Tensor, block_size: int) -> Tensor | None:
    """Which gathered keys take part, `[R, 1, count*block_size]`; None for all."""
    if key_mask is None:
        return None
    blocks = key_mask.view(-1, block_size)
    return blocks[kept % len(blocks)].flatten(1)[:, None]


def _attend_all(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """Dense attention of `[R, block_size, D]` over `[R, M, D]`, of which `mask` `[R, 1, M]` may hide some.

    In bf16 on a CPU SDPA multiplies no faster than in fp32. Products and softmax written out take half the time, and
    round where the reference does.
    """
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        scores = torch.baddbmm(query.new_empty(()), query, key.transpose(1, 2), beta=0, alpha=scale)
        scores = scores if mask is None else scores.masked_fill_(~mask, float("-inf"))
        return torch.bmm(scores.softmax(-1), value)
    attn_mask = None if mask is None else mask[:, None].expand(-1, -1, query.shape[1], -1)
    out = scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], attn_mask=attn_mask, scale=scale)
    return out[:, 0]


def gradients(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block_mask: Tensor,
    *,
    block_size: int,
    scale: float,
    key_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, written out, for graphs that autograd does not see into.

    Args:
        grad: Of the output, `[B, heads, N, D]`.
        query: As for :func:`attend`.
        key: All keys in one piece.
        value: As `key`.
        block_mask: As for :func:`attend`.
        block_size: As for :func:`attend`.
        scale: As for :func:`attend`.
        key_mask: As for :func:`attend`.

    Returns:
        Three tensors in the shapes of `query`, `key` and `value`.
    """
    if key_mask is not None:
        key, value = (x.masked_fill(~key_mask[:, None], 0.0) for x in (key, value))
    wide = torch.promote_types(query.dtype, torch.float32)
    blocks = [_as_blocks(x, block_size) for x in (query, key, value, grad)]
    totals = [torch.zeros(x.shape, dtype=wide, device=x.device) for x in blocks[:3]]
    counts = block_mask.sum(-1).flatten()
    for row, kept in _rows_of_equal_count(block_mask, counts, Counter(counts.tolist()), BLOCKS_PER_CALL):
        q, g = (blocks[i].index_select(0, row).to(wide) for i in (0, 3))
        k, v = (blocks[i].index_select(0, kept.flatten()).view(len(row), -1, q.shape[2]).to(wide) for i in (1, 2))
        scores = q @ k.transpose(1, 2) * scale
        mask = _gather_mask(key_mask, kept, block_size)
        weights = (scores if mask is None else scores.masked_fill(~mask, float("-inf"))).softmax(-1)
        grad_weights = g @ v.transpose(1, 2)
        grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True)) * scale
        totals[0].index_add_(0, row, grad_scores @ k)
        for total, part in zip(totals[1:], (grad_scores.transpose(1, 2) @ q, weights.transpose(1, 2) @ g), strict=True):
            total.index_add_(0, kept.flatten(), part.unflatten(1, (-1, block_size)).flatten(0, 1))
    return tuple(total.view_as(x).to(x.dtype) for total, x in zip(totals, (query, key, value), strict=True))  # type: ignore[return-value]  # three of them


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
