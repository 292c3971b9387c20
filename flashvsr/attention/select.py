"""Joint top-k selection: which block pairs of a chunk are worth computing."""

from __future__ import annotations

import math
import warnings
from functools import cache, lru_cache

import torch
from torch import Tensor, nn

from flashvsr.attention.blocks import BLOCK_SIZE, TokenGrid
from flashvsr.attention.masks import causal_slot_mask, check_pair, window_mask
from flashvsr.kernels import takes_kernel, unavailable

RULES = ("released", "keep_all_when_covered")

FIRST_SLOTS = 3
"""Slots of the first chunk of FlashVSR, which see one another."""

LONGEST_ROW = 1 << 14
"""Key blocks that the kernel takes in one row."""


def block_means(x: Tensor, block_size: int = BLOCK_SIZE, *, key_mask: Tensor | None = None) -> Tensor:
    """Mean of the tokens of each block, in the dtype of the input.

    Args:
        x: `[B, heads, N, D]`, queries or keys after norm and RoPE.
        block_size: Tokens per block.
        key_mask: Boolean `[N]`, tokens that count; None for all.

    Returns:
        `[B, heads, N / block_size, D]`; zero for a block without any.
    """
    if key_mask is None:
        return x.unflatten(2, (-1, block_size)).mean(3)
    share = key_mask.view(-1, block_size).to(x.dtype).mean(1, keepdim=True).clamp_min(1 / block_size)  # [blocks, 1]
    return x.masked_fill(~key_mask[:, None], 0.0).unflatten(2, (-1, block_size)).mean(3) / share


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
    if not 0 < slots <= blocks or not key_blocks or blocks % slots or key_blocks % (blocks // slots):
        raise ValueError(f"{blocks} query and {key_blocks} key blocks are not whole slots when the query has {slots}")
    per_slot = blocks // slots
    if allowed.shape not in ((blocks, key_blocks), (per_slot, per_slot)):
        tiled = "" if blocks == key_blocks == per_slot else f", or [{per_slot}, {per_slot}] for every pair of slots"
        raise ValueError(f"allowed is [{blocks}, {key_blocks}]{tiled}; got {list(allowed.shape)}")
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


@cache  # a CUDA graph that reads it does not keep it alive
def _window_on(device: torch.device, grid_hw: tuple[int, int], window_hw: tuple[int, int], boundary: str) -> Tensor:
    return window_mask(grid_hw, window_hw, boundary=boundary).to(device)


@lru_cache(maxsize=16)
def _causal_window_on(
    device: torch.device,
    slots: int,
    history: int,
    first_slots: int,
    grid_hw: tuple[int, int],
    window_hw: tuple[int, int],
    boundary: str,
) -> Tensor:
    slot = causal_slot_mask(slots, history, first_slots=first_slots)
    window = window_mask(grid_hw, window_hw, boundary=boundary)
    return torch.kron(slot, window).to(device)


class BlockSelection(nn.Module):
    """Which block pairs a sparse layer computes: a window, and a budget inside it. No parameters.

    It is a module so that a forward hook can record its masks, or replace them by given ones.

    Args:
        window_hw: Rows and columns of the window, in blocks.
        boundary: What the window does at the border, see :func:`~flashvsr.attention.window_mask`.
        sparse_ratio: Density: at any resolution a query block keeps about ``60 * sparse_ratio`` key blocks on average,
            where a token stands for 16x16 pixels.
        rule: What a budget that covers everything does, see :func:`~flashvsr.attention.select_blocks`.
        first_slots: Leading slots of a whole sequence that see one another.
        token_pixels: Rows and columns of pixels that a token stands for, by which the ratio counts.

    Attributes:
        impl: Of :func:`~flashvsr.attention.select.select_from_means`, where the slots of a stream choose.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, locality-constrained sparse attention.
    """

    def __init__(
        self,
        window_hw: tuple[int, int] = (11, 11),
        boundary: str = "truncated",
        sparse_ratio: float = 2.0,
        rule: str = "released",
        *,
        first_slots: int = FIRST_SLOTS,
        token_pixels: int = 16,
    ) -> None:
        super().__init__()
        self.impl = "auto"
        self.window_hw = check_pair("window_hw", window_hw)  # a list in recipes
        window_mask((1, 1), self.window_hw, boundary=boundary)  # raises for sizes or a boundary that make no sense
        if sparse_ratio <= 0:
            raise ValueError(f"sparse_ratio is positive, got {sparse_ratio}")
        if rule not in RULES:
            raise ValueError(f"rule is one of {', '.join(RULES)}, got {rule!r}")
        if first_slots < 1 or token_pixels < 1:
            raise ValueError(f"first_slots and token_pixels are at least 1, got {first_slots} and {token_pixels}")
        self.boundary, self.sparse_ratio, self.rule = boundary, sparse_ratio, rule
        self.first_slots, self.token_pixels = first_slots, token_pixels
        self._warned = False

    def budget(self, grid: TokenGrid) -> int:
        """Pairs kept per (head, query slot).

        The released code scales the ratio by the frame size first and multiplies by S*S afterwards, both in float64;
        the order decides single blocks at some sizes (640x1408). A budget of 0 keeps nothing, of which it warns once.
        """
        rows, columns = grid.blocks_hw
        pixels = grid.rows * self.token_pixels * grid.columns * self.token_pixels
        ratio = self.sparse_ratio * 768 * 1280 / pixels
        budget = int((rows * columns) ** 2 * ratio) - 1
        if budget == 0 and not self._warned and not torch.compiler.is_compiling():
            self._warned = True
            warnings.warn(
                f"sparse_ratio={self.sparse_ratio} keeps no block of {rows}x{columns} per slot: attention gives zeros; "
                f"raise it, or set token_pixels={self.token_pixels} to the pixels that a token stands for",
                stacklevel=2,
            )
        return budget

    def forward(self, query: Tensor, key_means: Tensor, grid: TokenGrid, history: int | None = None) -> Tensor:
        """Choose.

        Args:
            query: `[B, heads, N, D]` in block order.
            key_means: Block means of all visible keys, `[B, heads, key blocks, D]`.
            grid: Size of the query.
            history: None when every key slot is visible from every query slot (a chunk of a stream); a number when the
                keys are the queries' own and slots are causal with that much history (a whole sequence).

        Returns:
            Boolean `[B, heads, N/128, key blocks]`.
        """
        where = (grid.blocks_hw, self.window_hw, self.boundary)
        impl = "plain" if history is not None else self.impl
        tracing = torch.compiler.is_compiling()  # a tracer's tensors must not stay in the caches
        if history is None:
            window = _window_on.__wrapped__ if tracing else _window_on
            allowed = window(query.device, *where)
        else:
            causal_window = _causal_window_on.__wrapped__ if tracing else _causal_window_on
            allowed = causal_window(query.device, grid.slots, history, self.first_slots, *where)
        return select_from_means(
            block_means(query, key_mask=grid.key_mask(query.device)),
            key_means,
            allowed,
            budget=self.budget(grid),
            slots=grid.slots,
            rule=self.rule,
            impl=impl,
        )

    def extra_repr(self) -> str:
        """Arguments, for ``print``."""
        return f"window_hw={self.window_hw}, {self.boundary}, sparse_ratio={self.sparse_ratio}, {self.rule}"
