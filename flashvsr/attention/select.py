"""Joint top-k selection: which block pairs of a chunk are worth computing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flashvsr.attention.blocks import BLOCK_SIZE
from flashvsr.kernels import takes_kernel, unavailable

RULES = ("released", "keep_all_when_covered")

LONGEST_ROW = 1 << 14
"""Key blocks that the kernel takes in one row."""


def block_means(x: Tensor, block_size: int = BLOCK_SIZE) -> Tensor:
    """Mean of the tokens of each block, in the dtype of the input.

    Args:
        x: `[B, heads, N, D]`, queries or keys after norm and RoPE.
        block_size: Tokens per block.

    Returns:
        `[B, heads, N / block_size, D]`.
    """
    return x.unflatten(2, (-1, block_size)).mean(3)


def select_blocks(
    query: Tensor,
    key: Tensor,
    allowed: Tensor,
    *,
    budget: int,
    slots: int = 1,
    rule: str = "released",
    block_size: int = BLOCK_SIZE,
) -> Tensor:
    """Choose the block pairs with the highest scores, jointly over each (head, query slot).

    A pair's score is the product of the mean query and the mean key over sqrt(D), in the dtype of the input, turned
    into a probability over the visible keys of its row in fp32. All rows of a slot compete for the same budget, so a
    row may get many pairs or none. Pairs tied with the first one left out fall out too. No gradient passes through the
    choice.

    Args:
        query: `[B, heads, N, D]` after norm and RoPE, in block order.
        key: `[B, heads, M, D]` likewise; its slots may stand in any order.
        allowed: Boolean `[N/block_size, M/block_size]`, or `[S, S]` (one slot) that holds between every pair of slots.
        budget: Pairs kept per (head, query slot), at least 0.
        slots: Slots in `query`.
        rule: What a budget that covers every pair of the visible slots does: ``"released"`` drops the lowest pair,
            ``"keep_all_when_covered"`` keeps all.
        block_size: Tokens per block.

    Returns:
        Boolean `[B, heads, N/block_size, M/block_size]`; True is kept.

    Raises:
        ValueError: If the sizes do not fit together, the budget is negative or the rule unknown.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, locality-constrained sparse attention; the threshold rule is the
        released code's.
    """
    if query.shape[2] % block_size or key.shape[2] % block_size:
        raise ValueError(f"{query.shape[2]} query and {key.shape[2]} key tokens are not whole blocks of {block_size}")
    return select_from_means(
        block_means(query, block_size),
        block_means(key, block_size),
        allowed,
        budget=budget,
        slots=slots,
        rule=rule,
    )


@torch.no_grad()
def select_from_means(
    query_means: Tensor,
    key_means: Tensor,
    allowed: Tensor,
    *,
    budget: int,
    slots: int = 1,
    rule: str = "released",
    impl: str = "plain",
) -> Tensor:
    """Do what :func:`select_blocks` does, from block means, so that a cache may keep those of its keys.

    Args:
        query_means: `[B, heads, blocks, D]`.
        key_means: `[B, heads, key blocks, D]`.
        allowed: As for :func:`select_blocks`.
        budget: As for :func:`select_blocks`.
        slots: As for :func:`select_blocks`.
        rule: As for :func:`select_blocks`.
        impl: ``"plain"``; ``"triton"``, kernels that find the threshold without sorting, on a GPU and where every key
            slot is visible; or ``"auto"``: the kernels where they can run. Choices differ where two probabilities of
            the same budget are equal to rounding.

    Returns:
        Boolean `[B, heads, blocks, key blocks]`.

    Raises:
        ValueError: As :func:`select_blocks`, or if `impl` is unknown.
        ImplUnavailableError: If the kernels are named and cannot run.
    """
    blocks, key_blocks, dim = query_means.shape[2], key_means.shape[2], query_means.shape[3]
    per_slot = _check_sizes(blocks, key_blocks, allowed, budget, slots, rule)
    tiled = allowed.shape != (blocks, key_blocks)
    all_visible = tiled or (slots == 1 and key_blocks == per_slot)
    pairs = allowed.repeat(slots, key_blocks // per_slot) if tiled else allowed
    # The power of two in sqrt(D) goes in first: no rounding changes, but products do not overflow fp16.
    fraction, exponent = math.frexp(dim**0.5)
    scores = query_means * 0.5**exponent @ key_means.transpose(2, 3)  # [B, heads, blocks, key blocks]
    if takes_kernel(impl, _kernel_unavailable(query_means, key_blocks, all_visible)):
        from flashvsr.kernels.select import launch_select

        keep = launch_select(scores, fraction, allowed, budget)
    else:
        scores = (scores / fraction).float().masked_fill(~pairs, float("-inf"))
        probability = scores.softmax(-1).nan_to_num(0.0)  # a row that sees no key is all -inf, its softmax NaN
        probability = probability.unflatten(2, (slots, per_slot)).flatten(3)  # [B, heads, slots, pairs]
        if all_visible:
            threshold = _threshold_all_visible(probability, budget)
        else:
            probability, threshold = _threshold_some_visible(probability, pairs, budget, slots, per_slot)
        keep = (probability > threshold).unflatten(3, (per_slot, key_blocks)).flatten(2, 3)
    if rule == "keep_all_when_covered":
        covered = pairs.unflatten(0, (slots, per_slot)).sum((1, 2)) <= budget  # [slots]
        keep = torch.where(covered.repeat_interleave(per_slot)[:, None], pairs, keep)
    return keep


def _kernel_unavailable(query_means: Tensor, key_blocks: int, all_visible: bool) -> str | None:
    if torch.compiler.is_compiling():
        return "torch.compile fuses the plain form by itself"
    if not all_visible:
        return "some key slots are hidden from some query slots"
    if key_blocks > LONGEST_ROW:
        return f"{key_blocks} key blocks are more than {LONGEST_ROW}"
    return unavailable("select", query_means.device, query_means.dtype)


def _check_sizes(blocks: int, key_blocks: int, allowed: Tensor, budget: int, slots: int, rule: str) -> int:
    if rule not in RULES:
        raise ValueError(f"rule is one of {', '.join(RULES)}, got {rule!r}")
    if budget < 0:
        raise ValueError(
            f"budget counts kept pairs, at least 0; got {budget} (a sparse_ratio too small for this frame?)"
        )
    if slots < 1 or blocks % slots or key_blocks % (blocks // slots):
        raise ValueError(f"{blocks} query and {key_blocks} key blocks are not whole slots when the query has {slots}")
    per_slot = blocks // slots
    if allowed.shape not in ((blocks, key_blocks), (per_slot, per_slot)):
        raise ValueError(
            f"allowed is [{blocks}, {key_blocks}], or [{per_slot}, {per_slot}] for every pair of slots; "
            f"got {list(allowed.shape)}"
        )
    return per_slot


def _threshold_all_visible(probability: Tensor, budget: int) -> Tensor:
    """Return the score at index `min(budget, V-1)` in descending order, where all pairs of a slot are candidates."""
    candidates = probability.shape[-1]
    rank = candidates - min(budget, candidates - 1)  # kthvalue counts from the smallest, and from 1
    return probability.kthvalue(rank, dim=-1, keepdim=True).values


def _threshold_some_visible(
    probability: Tensor, pairs: Tensor, budget: int, slots: int, per_slot: int
) -> tuple[Tensor, Tensor]:
    """Do the same where each query slot sees its own key slots only; V differs by slot and stays on the device."""
    by_slot = pairs.unflatten(1, (-1, per_slot)).unflatten(0, (slots, per_slot))  # [slots, S, key slots, S]
    visible = by_slot.any(3).any(1)  # [slots, key slots]
    candidates = visible.sum(1) * per_slot**2
    hidden = ~visible.repeat_interleave(per_slot, 1)[:, None].expand(-1, per_slot, -1).flatten(1)
    probability = probability.masked_fill(hidden, -1.0)  # below every candidate, of which some are 0
    index = (candidates - 1).clamp(min=0, max=budget)
    ordered = probability.sort(dim=-1, descending=True).values
    threshold = ordered.gather(-1, index[:, None].expand(*ordered.shape[:-1], 1))
    return probability, threshold.clamp(min=0.0)
