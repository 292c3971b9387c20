"""The kernel distance of the parts of all clips together, with what each clip contributes to its spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from flashvsr.evaluate.features import polynomial_kernel

FEWEST_CLIPS = 3
ENOUGH_PATCHES = 5000
MOST_PATCHES = 1000
"""Of a clip: the comparison of all pairs grows with the square."""


def pooled_distances(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> list[float]:
    """The kernel distance between what a method made of some clips and their truth: one value for each clip.

    Parts of one clip resemble each other, so only parts of different clips are compared, which makes the distance
    unbiased for clips of the same kind, however many parts each has; every clip counts alike. The values are the
    jackknife's: their mean is the distance, and their t-interval that of a jackknife which leaves out one clip at a
    time. Values of two methods on the same clips can be subtracted clip by clip.

    Args:
        ours: Features of each clip's parts, `[n, C]` with n at least 1.
        theirs: Those of the truth, in the same order.

    Returns:
        Values for the clips; below 0 is possible.

    Raises:
        ValueError: If there are fewer than three clips.

    Reference:
        Gretton et al., A kernel two-sample test, JMLR 13 (2012), lemma 6, with clips in place of samples; kernel of
        Binkowski et al., https://arxiv.org/abs/1801.01401; Efron and Stein, The jackknife estimate of variance, Annals
        of Statistics 9 (1981).
    """
    count = len(ours)
    if count < FEWEST_CLIPS:
        raise ValueError(f"a distance over {count} clips: expected at least {FEWEST_CLIPS}")
    pairs = torch.zeros(count, count, dtype=torch.float64)  # of clips: how far they are apart, less how near
    for one in range(count):
        for two in range(one + 1, count):
            near = _mean_kernel(ours[one], theirs[two]) + _mean_kernel(ours[two], theirs[one])
            pairs[one, two] = _mean_kernel(ours[one], ours[two]) + _mean_kernel(theirs[one], theirs[two]) - near
    pairs = pairs + pairs.T
    whole, own = pairs.sum() / (count * (count - 1)), pairs.sum(1)
    without = (pairs.sum() - 2 * own) / ((count - 1) * (count - 2))
    return (count * whole - (count - 1) * without).tolist()


def _mean_kernel(a: Tensor, b: Tensor) -> Tensor:
    return polynomial_kernel(a.double(), b.double()).mean().cpu()


class PatchPool:
    """Features of the parts of every clip, kept on the CPU until the last clip is done.

    Args:
        methods: What is compared with the truth.
        truth: Name of the truth.
    """

    def __init__(self, methods: Sequence[str], truth: str) -> None:
        self._methods, self._truth = tuple(methods), truth
        self._clips: dict[str, dict[str, list[Tensor]]] = {}

    def add(self, clip: str, patches: Mapping[str, Tensor]) -> None:
        """Take the parts of a clip, degraded with one seed.

        Args:
            clip: Its name; further seeds of the same clip are joined.
            patches: `[n, C]` by method, and of the truth; n may be 0.
        """
        if not len(patches[self._truth]):
            return
        kept = self._clips.setdefault(clip, {})
        for name in (*self._methods, self._truth):
            features = patches[name]
            step = -(-len(features) // MOST_PATCHES)
            kept.setdefault(name, []).append(features[::step].float().cpu())

    def result(self) -> tuple[dict[str, dict[str, float]], list[str]]:
        """What :func:`pooled_distances` gives.

        Returns:
            By method and clip; and what to know about it, in sentences.
        """
        if len(self._clips) < FEWEST_CLIPS:
            return {}, [f"no pooled_kid: {len(self._clips)} clips have parts, and it needs {FEWEST_CLIPS}"]
        stacked = {
            name: [torch.cat(clip[name]) for clip in self._clips.values()] for name in (*self._methods, self._truth)
        }
        count = sum(map(len, stacked[self._truth]))
        notes = [f"pooled lite-KID over {count} parts of {len(self._clips)} clips"]
        if count < ENOUGH_PATCHES:
            notes[0] += f": fewer than {ENOUGH_PATCHES}, so take more frames or clips before relying on it"
        theirs = stacked[self._truth]
        found = {
            name: dict(zip(self._clips, pooled_distances(stacked[name], theirs), strict=True)) for name in self._methods
        }
        return found, notes
