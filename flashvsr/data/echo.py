"""Data echoing: more steps than batches, where making a batch takes longer than a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Generator, Tensor

from flashvsr.data.batches import BatchLoader
from flashvsr.data.sampling import derive_seed


@dataclass(frozen=True)
class EchoStart:
    """Where in the run a pass begins.

    Attributes:
        position: Epoch and number of the batch that comes next, or of which steps are left.
        had: Steps of it that were taken.
        held: Whether the buffer has it, so that its other steps need no clips.
        refill: Batches before it that the buffer should have and, after a resume, has not.
    """

    position: tuple[int, int]
    had: int
    held: bool
    refill: int

    def span(self, batches: int) -> range:
        """Numbers in the run of the batches to make for a pass as long as an epoch.

        Args:
            batches: Of an epoch.
        """
        first = self.position[0] * batches + self.position[1]
        if self.held:
            return range(first + 1, first + 1 + batches)
        return range(first - self.refill, first + batches + (self.had > 0))


class EchoLoader:
    """Each batch of a loader, followed by ``times - 1`` that hold its position only: a `EchoBuffer` has the clips.

    Every pass has the same number of steps, also one that begins among those of a batch: Lightning counts the steps of
    an epoch itself, from its own checkpoint.

    Args:
        loader: Gives dicts with ``position`` and ``broken``: those of ``start().span(...)``.
        times: Steps per batch.
        start: Asked when a pass begins. Batches that refill the buffer come under ``before`` of the first one.
    """

    def __init__(self, loader: BatchLoader, times: int, start: Callable[[], EchoStart]) -> None:
        self.loader, self.times, self.start = loader, times, start
        self.sampler = loader.sampler

    def __len__(self) -> int:
        return len(self.loader) * self.times

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return islice(self._steps(), len(self))

    def _steps(self) -> Iterator[dict[str, Any]]:
        start = self.start()
        had = start.had
        if start.held:
            yield from self._repeats(start.position, self.times - had)
            had = 0
        batches = iter(self.loader)
        before = [next(batches) for _ in range(start.refill)]
        for batch in batches:
            position = batch["position"]  # whoever gets the batch takes it out
            yield batch | {"before": before} if before else batch
            yield from self._repeats(position, self.times - had - 1)
            had, before = 0, []

    @staticmethod
    def _repeats(position: tuple[int, int], times: int) -> Iterator[dict[str, Any]]:
        for _ in range(times):
            yield {"position": position, "broken": []}


class EchoBuffer:
    """The last batches that were made; each step draws its clips from them.

    What a step gets is a function of the batches and of (seed, position, repeat): a resumed run that is given the same
    batches draws the same clips.

    Args:
        batches: How many are kept; with 1, every step gets the clips of the newest, in their order.
        seed: Of the draws.
        turn: Whether every draw mirrors and turns its clips, into one of eight views (of four where they are not
            square).

    Reference:
        Choi et al., Faster neural network training with data echoing, https://arxiv.org/abs/1907.05550: example
        echoing with a shuffle buffer.
    """

    def __init__(self, batches: int, seed: int, turn: bool = False) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=batches)
        self._seed, self._turn = seed, turn

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, batch: dict[str, Any]) -> None:
        """Keep a batch, tensors `[B, ...]` by name, dicts of such for images; the oldest goes when it is full."""
        self._kept.append(batch)

    def draw(self, position: tuple[int, int], repeat: int) -> dict[str, Any]:
        """As many different clips as a batch has, for one step: the ``repeat``-th of the batch at ``position``."""
        mix = self._kept.maxlen != 1
        if not (mix or self._turn):
            return self._kept[-1]
        random = Generator().manual_seed(derive_seed(self._seed, *position, repeat))
        return _drawn(list(self._kept), random, mix=mix, views=8 if self._turn else 1)


def _drawn(batches: list[dict[str, Any]], random: Generator, *, mix: bool, views: int) -> dict[str, Any]:
    names = [name for name, value in batches[0].items() if not isinstance(value, dict)]
    size = len(batches[0][names[0]])
    chosen = (torch.randperm(len(batches) * size, generator=random)[:size] if mix else torch.arange(size)).tolist()
    ways = torch.randint(views, (size,), generator=random).tolist() if views > 1 else [0] * size
    drawn: dict[str, Any] = {
        name: torch.stack(
            [_turned(batches[n // size][name][n % size], way) for n, way in zip(chosen, ways, strict=True)]
        )
        for name in names
    }
    nested = batches[0].keys() - drawn.keys()
    return drawn | {
        name: _drawn([batch[name] for batch in batches], random, mix=mix, views=views) for name in sorted(nested)
    }


def _turned(x: Tensor, way: int) -> Tensor:
    """One of the eight views of `[..., H, W]`; what is no picture stays."""
    if x.ndim < 2 or not way:
        return x
    x = x.flip([dim for dim, bit in ((-1, 1), (-2, 2)) if way & bit])
    return x.mT if way & 4 and x.shape[-1] == x.shape[-2] else x
