# mypy: disable-error-code=no-untyped-def
"""Triton kernels of joint selection: softmax of every row, then the threshold of every slot digit by digit.

Probabilities are not negative, so that their bits, read as integers, are in their order. Three rounds of counting, by
ten bits each, find the value at an index without sorting; each round reads the counts of the one before.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROUNDS, DIGITS = 3, 1024


@triton.jit
def _digit(counts, rank, DIGITS: tl.constexpr):
    """Largest digit with more than `rank` values at or above it, and how many lie above it."""
    digit = tl.arange(0, DIGITS)
    count = tl.load(counts + digit)
    at_or_above = tl.sum(count, 0) - tl.cumsum(count, 0) + count
    found = tl.sum((at_or_above > rank).to(tl.int32), 0) - 1
    above = tl.sum(tl.where(digit > found, count, 0), 0)
    return found, above


@triton.jit
def _count(counts, digit, inside, DIGITS: tl.constexpr):
    """Add the digits of one row to the counts; those not inside go to bins that are not kept."""
    bins = tl.histogram(tl.where(inside, digit, DIGITS), 2 * DIGITS)
    index = tl.arange(0, 2 * DIGITS)
    tl.atomic_add(counts + index, bins, mask=(bins > 0) & (index < DIGITS))


@triton.jit
def _probabilities(
    scores, allowed, probability, counts, fraction, rows, columns, per_slot,
    DIGITS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    inside = column < columns
    start = (sample * rows + row) * columns
    score = tl.load(scores + start + column, mask=inside, other=0.0).to(tl.float32)
    score = tl.math.div_rn(score, fraction).to(scores.dtype.element_ty).to(tl.float32)
    near = tl.load(allowed + (row % per_slot) * per_slot + column % per_slot, mask=inside, other=0) != 0
    score = tl.where(near, score, float("-inf"))
    highest = tl.max(score, 0)
    weight = tl.where(near, tl.exp(score - tl.where(highest == float("-inf"), 0.0, highest)), 0.0)
    total = tl.sum(weight, 0)
    weight = tl.math.div_rn(weight, tl.where(total > 0, total, 1.0))
    tl.store(probability + start + column, weight, mask=inside)
    slot = sample * (rows // per_slot) + row // per_slot
    _count(counts + slot * 3 * DIGITS, weight.to(tl.int32, bitcast=True) >> 20, inside, DIGITS)


@triton.jit
def _prefix(counts, rank, ROUND: tl.constexpr, DIGITS: tl.constexpr):
    """Leading bits of the threshold after the rounds so far, and its index among the values that share them."""
    prefix = 0
    for earlier in tl.static_range(ROUND):
        digit, above = _digit(counts + earlier * DIGITS, rank, DIGITS)
        prefix = prefix * DIGITS + digit
        rank -= above
    return prefix, rank


@triton.jit
def _refine(
    probability, counts, rank, rows, columns, per_slot,
    ROUND: tl.constexpr, DIGITS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    counts += (sample * (rows // per_slot) + row // per_slot) * 3 * DIGITS
    prefix, _ = _prefix(counts, rank, ROUND, DIGITS)
    column = tl.arange(0, COLUMNS)
    start = (sample * rows + row) * columns
    bits = tl.load(probability + start + column, mask=column < columns, other=-1.0).to(tl.int32, bitcast=True)
    shared = (column < columns) & ((bits >> (30 - 10 * ROUND)) == prefix)
    _count(counts + ROUND * DIGITS, (bits >> (20 - 10 * ROUND)) % DIGITS, shared, DIGITS)


@triton.jit
def _keep(
    probability, counts, kept, rank, rows, columns, per_slot,
    DIGITS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, sample = tl.program_id(0), tl.program_id(1).to(tl.int64)
    threshold, _ = _prefix(counts + (sample * (rows // per_slot) + row // per_slot) * 3 * DIGITS, rank, 3, DIGITS)
    column = tl.arange(0, COLUMNS)
    start = (sample * rows + row) * columns
    bits = tl.load(probability + start + column, mask=column < columns, other=0.0).to(tl.int32, bitcast=True)
    tl.store(kept + start + column, (bits > threshold).to(tl.uint8), mask=column < columns)


def launch_select(scores: Tensor, fraction: float, allowed: Tensor, budget: int) -> Tensor:
    """Keep the pairs above the threshold of their (head, query slot), where every key slot is visible.

    Args:
        scores: `[B, heads, rows, columns]`, still to be divided by `fraction`.
        fraction: In (0, 1].
        allowed: Boolean `[S, S]`, holds between every pair of slots.
        budget: Index of the threshold in descending order, at most the last one.

    Returns:
        Boolean, shaped as `scores`.
    """
    batch, heads, rows, columns = scores.shape
    per_slot = allowed.shape[0]
    scores, allowed = scores.contiguous(), allowed.contiguous()
    rank = min(budget, per_slot * columns - 1)
    probability = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
    kept = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    counts = torch.zeros(batch * heads * (rows // per_slot), ROUNDS, DIGITS, dtype=torch.int32, device=scores.device)
    grid, sizes = (rows, batch * heads), (rows, columns, per_slot)
    constants = {"DIGITS": DIGITS, "COLUMNS": triton.next_power_of_2(columns), "num_warps": 4}
    with torch.cuda.device_of(scores):
        _probabilities[grid](
            scores, allowed.view(torch.uint8), probability, counts, fraction, *sizes,
            enable_fp_fusion=False, **constants,
        )  # fmt: skip
        for number in (1, 2):
            _refine[grid](probability, counts, rank, *sizes, ROUND=number, **constants)
        _keep[grid](probability, counts, kept.view(torch.uint8), rank, *sizes, **constants)
    return kept
