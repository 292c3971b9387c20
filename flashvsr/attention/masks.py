"""Which blocks may attend to which: pure functions that return boolean masks per block; True may attend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_pair(name: str, value: object) -> tuple[int, int]:
    """Return (rows, columns) from two whole numbers in a tuple or list, or say that they are not.

    Raises:
        ValueError: If `value` is anything else.
    """
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(n, int) for n in value):
        return value[0], value[1]
    raise ValueError(f"{name} is (rows, columns) in blocks, such as (11, 11); got {value!r}")


def _axis_window(blocks: int, window: int, boundary: str) -> Tensor:
    position = torch.arange(blocks)
    start = position - window // 2
    if boundary == "preserved":
        start = start.clamp(0, max(blocks - window, 0))
    start, key = start[:, None], position[None, :]
    return (key >= start) & (key < start + window)


def window_mask(grid_hw: tuple[int, int], window_hw: tuple[int, int], *, boundary: str = "truncated") -> Tensor:
    """Which key blocks lie in the spatial window around each query block.

    Args:
        grid_hw: Blocks per slot, rows and columns.
        window_hw: Window size in blocks; odd sizes are centred, even ones reach one further
            up and left.
        boundary: ``"truncated"`` cuts the window at the border; ``"preserved"`` shifts it inside
            so that every query sees a full window (all blocks when the grid is smaller).

    Returns:
        Boolean `[S, S]` with ``S = rows * columns``, rows are queries; True may attend.

    Raises:
        ValueError: If a size is not positive or ``boundary`` is unknown.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, locality-constrained sparse attention.
    """
    grid_hw, window_hw = check_pair("grid_hw", grid_hw), check_pair("window_hw", window_hw)
    if min(*grid_hw, *window_hw) < 1:
        raise ValueError(f"sizes are counts of blocks, at least 1: got grid {grid_hw}, window {window_hw}")
    if boundary not in ("truncated", "preserved"):
        raise ValueError(f"boundary is 'truncated' or 'preserved', got {boundary!r}")
    rows = _axis_window(grid_hw[0], window_hw[0], boundary)
    columns = _axis_window(grid_hw[1], window_hw[1], boundary)
    size = grid_hw[0] * grid_hw[1]
    return (rows[:, None, :, None] & columns[None, :, None, :]).reshape(size, size)


def causal_slot_mask(
    slots: int, history: int | None = None, *, first_slots: int = 3, blocks_per_slot: int = 1
) -> Tensor:
    """Which slots each slot sees: itself, a bounded past, and, among the first ones, one another.

    Args:
        slots: Slots in the sequence.
        history: Earlier slots that stay visible; None for all of them.
        first_slots: Leading slots that see one another whatever the order: the first chunk.
        blocks_per_slot: Repeats every entry for that many blocks, rows and columns alike.

    Returns:
        Boolean `[slots * blocks_per_slot, slots * blocks_per_slot]`, rows are queries.

    Raises:
        ValueError: If a count is out of range.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, stage 2, block-sparse causal attention.
    """
    if slots < 1 or first_slots < 1 or blocks_per_slot < 1 or (history is not None and history < 0):
        raise ValueError(
            "slots, first_slots and blocks_per_slot are at least 1 and history at least 0: "
            f"got {slots}, {first_slots}, {blocks_per_slot}, {history}"
        )
    query, key = torch.arange(slots)[:, None], torch.arange(slots)[None, :]
    past = key >= query - history if history is not None else torch.ones_like(key, dtype=torch.bool)
    mask = (key <= query) & past | (query < first_slots) & (key < first_slots)
    return mask.repeat_interleave(blocks_per_slot, 0).repeat_interleave(blocks_per_slot, 1)


def segment_mask(lengths: Sequence[int]) -> Tensor:
    """Block-diagonal mask of samples packed in one sequence.

    Args:
        lengths: Length of each segment, in whatever unit the mask is wanted in (blocks or tokens).

    Returns:
        Boolean `[N, N]` with ``N = sum(lengths)``: True inside a segment.

    Raises:
        ValueError: If there is no segment or one is empty.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError(f"every segment needs a length of at least 1, got {list(lengths)}")
    segment = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return segment[:, None] == segment[None, :]
