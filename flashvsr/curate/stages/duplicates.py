"""Stage ``duplicates``: of what looks the same, one is kept, whatever the order in which it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules

_STAGE = "duplicates"
_FAR = 64.0


def mark_duplicates(rows: Sequence[Row], rules: CurateRules) -> tuple[list[Row], list[tuple[str, str]]]:
    """Reject near-duplicates among rows that no stage rejected so far.

    Rows are visited in an order of their own, largest picture first, then by bit rate, by the hash of their source
    and by time, and each is compared with those kept before it, of other sources or other scenes of its own:
    neighbours of one scene may look alike. Videos are compared with videos, photographs with photographs.

    Args:
        rows: Segments and photographs.
        rules: The recipe: a limit on ``nearest``.

    Returns:
        The rows in the order given, with the score ``nearest``, and pairs of sources (hashes of their bytes) that share
        pictures.
    """
    result = list(rows)
    linked: list[tuple[str, str]] = []
    order = sorted(
        (number for number, row in enumerate(rows) if row.stage is None and row.hashes),
        key=lambda number: _rank(rows[number]),
    )
    for kind in ("video", "photo"):
        kept = _Kept()
        for number in (number for number in order if rows[number].kind == kind):
            row = rows[number]
            distance, other = kept.nearest(row)
            row = row.scored(_STAGE, rules, {"nearest": distance})
            if row.stage is None:
                kept.add(row)
            elif other is not None:
                row = replace(row, reason=f"{row.reason}: like {other.name}{_when(other)}")
                linked.append((row.sha256, other.sha256))
            result[number] = row
    return result, linked


def _rank(row: Row) -> tuple[Any, ...]:
    return -row.size[0] * row.size[1], -row.bit_rate, row.sha256, row.start


def _when(row: Row) -> str:
    return "" if row.kind == "photo" else f" at {row.span[0]:.2f} s"


class _Kept:
    """Rows kept so far, and their hashes in one growing array."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._hashes = np.zeros((0, 0), np.uint64)  # [rows, frames]

    def add(self, row: Row) -> None:
        """Keep one more."""
        if len(self._rows) == len(self._hashes):
            grown = np.zeros((max(64, 2 * len(self._rows)), len(row.hashes)), np.uint64)
            grown[: len(self._hashes), : self._hashes.shape[1]] = self._hashes
            self._hashes = grown
        self._hashes[len(self._rows)] = row.hashes
        self._rows.append(row)

    def nearest(self, row: Row) -> tuple[float, Row | None]:
        """The smallest distance to one that is no neighbour of the row, and that one."""
        if not self._rows:
            return _FAR, None
        distances = hash_distances(np.array(row.hashes, np.uint64), self._hashes[: len(self._rows)])
        for number in np.argsort(distances, kind="stable"):
            other = self._rows[number]
            if (other.sha256, other.scene) != (row.sha256, row.scene):
                return float(distances[number]), other
        return _FAR, None


def hash_distances(one: np.ndarray[Any, Any], many: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Differing bits between the frames of one segment and of many.

    Each frame is compared with the nearest of the other segment, so that segments which were cut a little differently
    still match; the mean over frames is taken, the larger of both directions.

    Args:
        one: `[frames]` uint64.
        many: `[n, frames]` uint64.

    Returns:
        `[n]` float, 0 to 64.
    """
    bits = np.bitwise_count(one[None, :, None] ^ many[:, None, :])  # [n, frames, frames]
    return np.maximum(bits.min(axis=2).mean(axis=1), bits.min(axis=1).mean(axis=1))
