"""Which sample a global position of an epoch is, on any number of processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Draw:
    """One sample to make: a number in the list of videos or of photographs, and the seed of all that is random."""

    photo: bool
    number: int
    seed: int


@dataclass(frozen=True)
class BatchPlan:
    """One batch of one process: clips, single images, and where it lies in the run."""

    epoch: int
    batch: int
    clips: tuple[Draw, ...]
    images: tuple[Draw, ...] = ()

    def split(self) -> list[BatchPlan]:
        """Plans of one clip each, with the images dealt out in order."""
        parts, images = len(self.clips), len(self.images)
        return [
            BatchPlan(self.epoch, self.batch, (clip,), self.images[i * images // parts : (i + 1) * images // parts])
            for i, clip in enumerate(self.clips)
        ]


def derive_seed(*parts: int | str) -> int:
    """A number in [0, 2**62) that depends on all parts and looks random."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2


class ShardOrder:
    """Samples in a random order that has those of a shard close together.

    Shards come in random order. Each sample is moved back by a random part of ``at_once`` shards, so that at any time
    those of about so many are mixed.

    Args:
        shards: Number of the shard of each video, and of each photograph.
        count: How many shards there are.
        at_once: Whose samples are mixed.
    """

    def __init__(self, shards: Sequence[Sequence[int]], count: int, at_once: int) -> None:
        self._shards = [np.array(numbers, np.int64) for numbers in shards]
        self._count, self._at_once = count, at_once

    def permutation(self, kind: int, shard_seed: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Numbers of all videos (``kind`` 0) or photographs (1); equal ``shard_seed`` gives equal order of shards."""
        places = np.random.default_rng(shard_seed).permutation(self._count)[self._shards[kind]]
        return np.argsort(places + self._at_once * rng.random(len(places)), kind="stable")


def draw_epoch(
    seed: int,
    epoch: int,
    length: int,
    counts: tuple[int, int],
    photo_fraction: float,
    stream: str,
    order: ShardOrder | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """What lies at every global position of an epoch.

    Each position is a photograph with probability ``photo_fraction``; within a kind every sample comes once, in
    random order, before one comes again.

    Args:
        seed: Of the run.
        epoch: Number of the epoch.
        length: Positions, of all processes together.
        counts: Videos and photographs there are.
        photo_fraction: In [0, 1].
        stream: ``"clips"`` or ``"images"``, which are drawn apart.
        order: Of the samples; None mixes all of them.

    Returns:
        Whether each position is a photograph, and its number within its kind; both `[length]`.
    """
    rng = np.random.default_rng(derive_seed(seed, epoch, stream))
    photo = rng.random(length) < photo_fraction
    numbers = np.empty(length, np.int64)
    for kind, count in enumerate(counts):
        wanted = int((photo == bool(kind)).sum())
        rounds = [
            order.permutation(kind, derive_seed(seed, epoch, "shards", turn), rng) if order else rng.permutation(count)
            for turn in range(-(-wanted // count) if count else 0)
        ]
        if wanted:
            numbers[photo == bool(kind)] = np.concatenate(rounds)[:wanted]
    return photo, numbers


class EpochPlan:
    """Yields a `BatchPlan` for each batch of this process.

    Batch ``b`` of rank ``r`` among ``w`` processes holds the global positions ``b*w*B + r + w*i``, i = 0 .. B-1. A
    sample is a function of (seed, epoch, global position): two processes of batch B/2 together get what one of
    batch B gets. Every process gets the same number of batches.

    Each pass gives the batches ``span()`` of the run, across the end of an epoch if need be. So the run is one sequence
    of batches wherever a pass is cut off, and Lightning's own count of epochs (which calls one finished when
    ``max_steps`` ends it) does not matter.

    Args:
        counts: Videos and photographs there are.
        batch_size: Clips per process.
        images: Single images per process and batch.
        batches: Length of an epoch.
        photo_fraction: Share of the clips that are made from photographs.
        seed: Of the run.
        rank: Of this process.
        world: Number of processes.
        span: Numbers in the run, from 0, of the batches of a pass; asked when it begins. None: the first epoch.
        order: Of the samples; None mixes all of them.
    """

    def __init__(
        self,
        counts: tuple[int, int],
        *,
        batch_size: int,
        images: int,
        batches: int,
        photo_fraction: float,
        seed: int,
        rank: int = 0,
        world: int = 1,
        span: Callable[[], range] | None = None,
        order: ShardOrder | None = None,
    ) -> None:
        self._counts, self._batches, self._seed = counts, batches, seed
        self._rank, self._world, self._order = rank, world, order
        self._span = span or (lambda: range(batches))
        self.batch_size, self._images, self._photo_fraction = batch_size, images, photo_fraction

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[BatchPlan]:
        drawn = None
        for number in self._span():
            epoch, batch = divmod(number, self._batches)
            if epoch != drawn:
                clips = self._draws("clips", epoch, self.batch_size, self._photo_fraction)
                images = self._draws("images", epoch, self._images, 1.0)
                drawn = epoch
            yield BatchPlan(epoch, batch, clips(batch), images(batch))

    def _draws(self, stream: str, epoch: int, size: int, photo_fraction: float) -> Callable[[int], tuple[Draw, ...]]:
        world, rank = self._world, self._rank
        total = self._batches * size * world
        photo, numbers = draw_epoch(self._seed, epoch, total, self._counts, photo_fraction, stream, self._order)

        def batch_of(batch: int) -> tuple[Draw, ...]:
            positions = [batch * world * size + rank + world * i for i in range(size)]
            seeds = [derive_seed(self._seed, epoch, stream, position) for position in positions]
            return tuple(Draw(bool(photo[p]), int(numbers[p]), seed) for p, seed in zip(positions, seeds, strict=True))

        return batch_of


def validation_plans(counts: tuple[int, int], batch_size: int, rank: int, world: int) -> list[BatchPlan]:
    """Every sample once, videos first, in a fixed order; rank r takes r, r + world, ...

    When the number does not divide, the first ones come again so that every process has equally many full batches.
    """
    samples = [(False, number) for number in range(counts[0])] + [(True, number) for number in range(counts[1])]
    span = batch_size * world
    plans = []
    for batch in range(-(-len(samples) // span)):
        chosen = [(batch * span + rank + world * i) % len(samples) for i in range(batch_size)]
        clips = tuple(Draw(*samples[n], seed=derive_seed("validation", n)) for n in chosen)
        plans.append(BatchPlan(0, batch, clips))
    return plans
