"""Packed attention through FlexAttention: the block lists of a document mask, worked out from the lengths."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from flashvsr.attention.impl.dense import clear_broken_tokens
from flashvsr.attention.impl.flex import SHAPES, compiled_flex_attention, flex, list_kept_blocks, unavailable

__all__ = ["attend_packed", "unavailable"]

BLOCK_SIZE = 128
"""Tokens per block of the mask; unlike a sparse block, it may hold tokens of several samples."""


def attend_packed(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], *, scale: float) -> Tensor:
    """Attend inside each sample.

    Args:
        query: `[B, heads, N, D]` with ``N = sum(lengths)``.
        key: As `query`.
        value: As `query`.
        lengths: Tokens of each sample.
        scale: Factor on the scores.

    Returns:
        `[B, heads, N, D]`.

    Reference:
        Flex Attention, https://arxiv.org/abs/2412.05496, document masking.
    """
    mask = document_mask(tuple(lengths), query.device)
    key, value, broken = clear_broken_tokens(key, value)  # of a neighbour in the same block
    with torch._dynamo.config.patch(recompile_limit=SHAPES):
        out = compiled_flex_attention()(query, key, value, block_mask=mask, scale=scale)
    sees_broken = [part.any(2, keepdim=True).expand_as(part) for part in broken.split(lengths, 2)]
    return out.masked_fill(torch.cat(sees_broken, 2)[..., None], float("nan"))


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # it may be made while streaming and be used again in training
def document_mask(lengths: tuple[int, ...], device: torch.device) -> Any:
    """Build the BlockMask under which every token sees its own sample only; nothing of size N x N is built for it.

    Args:
        lengths: Tokens of each sample.
        device: Where the mask is used.

    Returns:
        A BlockMask over `sum(lengths)` tokens, shared by batch and heads.
    """
    sample = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))  # [N]: which sample a token belongs to
    total = len(sample)
    start = torch.arange(0, total, BLOCK_SIZE)
    stop = (start + BLOCK_SIZE).clamp(max=total)
    first, last = sample[start], sample[stop - 1]  # of each block
    visible = (first[:, None] <= last) & (first <= last[:, None])  # the ranges of samples overlap
    pure = (first == last) & (stop - start == BLOCK_SIZE)
    full = visible & pure[:, None] & pure
    kept = torch.stack((visible & ~full, full))[:, None, None].to(device)  # [2, 1, 1, blocks, blocks]
    counts, indices = list_kept_blocks(kept)
    sample = sample.to(device)

    def same_sample(batch: Tensor, head: Tensor, query_index: Tensor, key_index: Tensor) -> Tensor:
        return sample[query_index] == sample[key_index]

    return flex().BlockMask.from_kv_blocks(
        counts[0],
        indices[0],
        counts[1],
        indices[1],
        BLOCK_SIZE=BLOCK_SIZE,
        mask_mod=same_sample,
        seq_lengths=(total, total),
    )
