"""What a sparse layer learns from a dense one by: the scores of its blocks, and its output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashvsr.attention.blocks import TokenGrid, partition_blocks
from flashvsr.attention.rope import norm_rope
from flashvsr.attention.select import block_means


def block_scores(layer: Any, x: Tensor, grid: TokenGrid, rope: Tensor) -> Tensor:
    """Scores of all block pairs, those that :func:`~flashvsr.attention.select_blocks` ranks, with their gradient.

    Args:
        layer: A :class:`~flashvsr.attention.LocalSparseAttention` or :class:`~flashvsr.attention.FullAttention`.
        x: `[B, N, dim]` in the order of the layer.
        grid: Size of the sequence.
        rope: `[N, D/2, 2]` in the order of the layer.

    Returns:
        `[B, heads, N/128, N/128]` fp32 or better, blocks in block order: mean query times mean key over ``sqrt(D)``.

    Raises:
        ValueError: If the grid is not whole blocks.
    """
    means = []
    for projection, norm in ((layer.q, layer.norm_q), (layer.k, layer.norm_k)):
        tokens = norm_rope(projection(x), norm.weight, rope, heads=layer.heads, eps=norm.eps)  # [B, N, heads, D]
        if layer.order == "raster":
            flat = tokens.flatten(2).unflatten(1, (grid.frames, grid.rows, grid.columns))
            tokens = partition_blocks(flat).unflatten(2, (layer.heads, -1))
        means.append(block_means(tokens.transpose(1, 2).to(torch.promote_types(tokens.dtype, torch.float32))))
    query, key = means
    with torch.autocast(x.device.type, enabled=False):
        return query @ key.transpose(2, 3) / query.shape[-1] ** 0.5


def block_score_divergence(student: Tensor, teacher: Tensor, visible: Tensor) -> Tensor:
    """Divergence of the student's distribution over visible blocks from the teacher's, KL(teacher || student).

    Args:
        student: Scores `[B, heads, blocks, key blocks]`.
        teacher: Scores of the same shape; no gradient passes to them.
        visible: Boolean `[blocks, key blocks]`, where the student may attend; a row without any counts 0.

    Returns:
        `[B]` in nats: the mean over heads and query blocks.
    """
    hidden = ~visible
    empty = hidden.all(-1, keepdim=True)
    log_student, log_teacher = (
        scores.masked_fill(hidden & ~empty, float("-inf")).log_softmax(-1) for scores in (student, teacher.detach())
    )
    terms = log_teacher.exp() * (log_teacher - log_student).masked_fill(hidden, 0.0)
    return terms.sum(-1).flatten(1).mean(1)


def output_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of two outputs in the same order, over the mean square of the teacher's.

    Args:
        student: `[B, N, dim]`.
        teacher: `[B, N, dim]`; no gradient passes to it.

    Returns:
        `[B]` fp32 or better: 0 for equal outputs, 1 for an output of zeros.
    """
    teacher = teacher.detach()
    student, teacher = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (student, teacher))
    error, size = (x.square().flatten(1).mean(1) for x in (student - teacher, teacher))
    return error / size.clamp_min(1e-12)
