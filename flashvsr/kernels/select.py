# mypy: disable-error-code=no-untyped-def
"""Triton kernels of joint selection: softmax of every row, then the threshold of every slot digit by digit.

Probabilities are not negative, so that their bits, read as integers, are in their order. Four rounds of counting, by
eight bits each, find the value at an index without sorting; each round reads the counts of the one before. A program
counts several rows of a slot before it adds to the counts of all: the programs of a slot queue up for these.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROUNDS, BITS = 4, 8
DIGITS = 1 << BITS

PROGRAMS = 1024
"""Programs of a launch, about: enough to fill a GPU."""


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
def _digits(digit, inside, DIGITS: tl.constexpr):
    """How often each digit occurs in one row, `[DIGITS]`, among those inside."""
    bins = tl.histogram(tl.where(inside, digit, 0), DIGITS)
    return bins - tl.where(tl.arange(0, DIGITS) == 0, tl.sum(tl.where(inside, 0, 1), 0), 0)


@triton.jit
def _add(counts, bins, DIGITS: tl.constexpr):
    tl.atomic_add(counts + tl.arange(0, DIGITS), bins, mask=bins > 0)


@triton.jit
def _place(rows, per_slot, ROWS: tl.constexpr):
    """Slot of the program, counted over all samples, its first row in that slot, and the row before the slot's."""
    sample, parts = tl.program_id(1).to(tl.int64), tl.cdiv(per_slot, ROWS)
    slot, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    return sample * (rows // per_slot) + slot, part * ROWS, sample * rows + slot * per_slot


@triton.jit
def _probabilities(
    scores, allowed, probability, counts, fraction, rows, columns, per_slot,
    ROUNDS: tl.constexpr, BITS: tl.constexpr, DIGITS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    slot, first, before = _place(rows, per_slot, ROWS)
    column = tl.arange(0, COLUMNS)
    bins = tl.zeros([DIGITS], tl.int32)
    for row in range(first, tl.minimum(first + ROWS, per_slot)):
        inside = column < columns
        start = (before + row) * columns
        score = tl.load(scores + start + column, mask=inside, other=0.0).to(tl.float32)
        score = tl.math.div_rn(score, fraction).to(scores.dtype.element_ty).to(tl.float32)
        near = tl.load(allowed + row * per_slot + column % per_slot, mask=inside, other=0) != 0
        score = tl.where(near, score, float("-inf"))
        highest = tl.max(score, 0)
        weight = tl.where(near, tl.exp(score - tl.where(highest == float("-inf"), 0.0, highest)), 0.0)
        total = tl.sum(weight, 0)
        weight = tl.math.div_rn(weight, tl.where(total > 0, total, 1.0))
        tl.store(probability + start + column, weight, mask=inside)
        bins += _digits(weight.to(tl.int32, bitcast=True) >> (ROUNDS - 1) * BITS, inside, DIGITS)
    _add(counts + slot * ROUNDS * DIGITS, bins, DIGITS)


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
    ROUND: tl.constexpr, ROUNDS: tl.constexpr, BITS: tl.constexpr, DIGITS: tl.constexpr, COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    slot, first, before = _place(rows, per_slot, ROWS)
    counts += slot * ROUNDS * DIGITS
    prefix, _ = _prefix(counts, rank, ROUND, DIGITS)
    column = tl.arange(0, COLUMNS)
    bins = tl.zeros([DIGITS], tl.int32)
    for row in range(first, tl.minimum(first + ROWS, per_slot)):
        start = (before + row) * columns
        bits = tl.load(probability + start + column, mask=column < columns, other=-1.0).to(tl.int32, bitcast=True)
        shared = (column < columns) & (bits >> (ROUNDS - ROUND) * BITS == prefix)
        bins += _digits((bits >> (ROUNDS - 1 - ROUND) * BITS) % DIGITS, shared, DIGITS)
    _add(counts + ROUND * DIGITS, bins, DIGITS)


@triton.jit
def _keep(
    probability, counts, kept, rank, rows, columns, per_slot,
    ROUNDS: tl.constexpr, BITS: tl.constexpr, DIGITS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    slot, first, before = _place(rows, per_slot, ROWS)
    threshold, _ = _prefix(counts + slot * ROUNDS * DIGITS, rank, ROUNDS, DIGITS)
    column = tl.arange(0, COLUMNS)
    for row in range(first, tl.minimum(first + ROWS, per_slot)):
        start = (before + row) * columns
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
    together = min(per_slot, triton.next_power_of_2(triton.cdiv(batch * heads * rows, PROGRAMS)))
    grid, sizes = (rows // per_slot * triton.cdiv(per_slot, together), batch * heads), (rows, columns, per_slot)
    constants = {"ROUNDS": ROUNDS, "BITS": BITS, "DIGITS": DIGITS, "COLUMNS": triton.next_power_of_2(columns)}
    constants |= {"ROWS": together, "num_warps": 4}
    with torch.cuda.device_of(scores):
        _probabilities[grid](
            scores, allowed.view(torch.uint8), probability, counts, fraction, *sizes,
            enable_fp_fusion=False, **constants,
        )  # fmt: skip
        for number in range(1, ROUNDS):
            _refine[grid](probability, counts, rank, *sizes, ROUND=number, **constants)
        _keep[grid](probability, counts, kept.view(torch.uint8), rank, *sizes, **constants)
    return kept
