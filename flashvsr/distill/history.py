"""How many earlier slots a training step of the sparse-causal stage sees."""

from __future__ import annotations

from random import Random


def draw_history(random: Random, slots: int) -> int:
    """Draw the history of one step: all n slots (50 %), n - 3 (30 %), n - 4 (10 %) or n - 2 (10 %), at least 1.

    Args:
        random: Shared by all samples and processes.
        slots: n, slots of the clip.

    Reference:
        The released code of FlashVSR.
    """
    fewer = random.choices((0, 3, 4, 2), weights=(5, 3, 1, 1))[0]
    return max(slots - fewer, 1)
