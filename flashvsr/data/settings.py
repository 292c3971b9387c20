"""Settings of the training data: what an epoch, its photographs, the validation and the workers are like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flashvsr.data.camera_motion import CameraMotion

Crop = int | tuple[int, int]
"""Side, or rows and columns, in pixels."""


@dataclass(frozen=True)
class EpochOptions:
    """How many batches are made, and how often each one is used.

    Attributes:
        batches: Different batches of an epoch, for every process.
        echo: Steps per batch, where making one takes longer than a step; stages draw noise and windows anew at every
            step.
        pool: Newest batches, uint8 on the device of the training, from which each step draws its clips. 1: a step gets
            the newest batch, so that what is learned from does not depend on the number of processes; more of them mix
            the repetitions of ``echo``, each process its own. See `EchoBuffer`.
        shards_at_once: Shards whose samples are mixed with each other at a time, in random order of shards; None: all.
            With a few, an epoch goes through the shards one after another, so that a cache with a limit fetches each of
            them about once.
        turn: Whether every step mirrors and turns its clips anew: with much echo, against learning them by heart. What
            stages prepare of a clip, such as its latents, is then computed at every step.

    Raises:
        ValueError: If a number is below 1.
    """

    batches: int = 1000
    echo: int = 1
    pool: int = 1
    turn: bool = False
    shards_at_once: int | None = None

    def __post_init__(self) -> None:
        at_once = 1 if self.shards_at_once is None else self.shards_at_once
        if min(self.batches, self.echo, self.pool, at_once) < 1:
            raise ValueError(f"{self}: batches, echo, pool and shards_at_once count from 1")


@dataclass(frozen=True)
class PhotoOptions:
    """What is made of photographs: moving clips, and single images beside the clips.

    Attributes:
        fraction: Share of clips made from photographs; None: the share of photographs among the samples.
        motion: Of the camera over them.
        images_per_batch: Single photographs per process and batch, beside the clips.
        image_crop: Of those; None: as the clips.

    Raises:
        ValueError: For a fraction outside [0, 1], a negative number of images, or a crop that is no multiple of 8.
    """

    fraction: float | None = None
    motion: CameraMotion = CameraMotion()
    images_per_batch: int = 0
    image_crop: Crop | None = None

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 <= self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction} of photographs: expected a share in [0, 1]")
        if self.images_per_batch < 0:
            raise ValueError(f"images_per_batch={self.images_per_batch}: expected 0 or more")
        if self.image_crop is not None:
            rows_and_columns("image_crop", self.image_crop)


@dataclass(frozen=True)
class ValidationOptions:
    """Batches of the validation.

    Attributes:
        batch_size: Clips per process.
        crop: Of the clips, from their centre; None: as in training.
        degradation: `[T,3,H,W]` uint8 and a seed to `[T,3,H/4,W/4]` uint8, run in the workers: other means than those
            of the training, such as `flashvsr.evaluate.encoded_lr`. None: as in training.

    Raises:
        ValueError: For a batch size below 1, or a crop that is no multiple of 8.
    """

    batch_size: int = 1
    crop: Crop | None = None
    degradation: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} of the validation: expected 1 or more")
        if self.crop is not None:
            rows_and_columns("validation crop", self.crop)


@dataclass(frozen=True)
class MemoryOptions:
    """Training footage that is decoded once and stays on the device, where clips are drawn and degraded.

    Attributes:
        shrink: Clips and photographs are shrunk by a factor drawn between these before they are cropped, as far as
            they are larger than the crop: footage was compressed, and is sharp only when it is smaller.
        threads: That decode at the start.
        processes: That make clips beside the training, each with a context of its own on the device. The footage
            then lies in files that they share, in a folder of temporary files (``TMPDIR``). 0: the process of the
            training makes them, between its steps.

    Raises:
        ValueError: For factors below 1 or in the wrong order, without a thread, or for a negative number.
    """

    shrink: tuple[float, float] = (1.0, 1.0)
    threads: int = 8
    processes: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shrink[0] <= self.shrink[1]:
            raise ValueError(f"shrink={self.shrink}: expected (lowest, highest), both at least 1")
        if self.threads < 1:
            raise ValueError(f"threads={self.threads}: expected 1 or more")
        if self.processes < 0:
            raise ValueError(f"processes={self.processes}: expected 0 or more")


@dataclass(frozen=True)
class RemoteOptions:
    """How shards at URLs are read. Without a folder for them, every sample is one request for its bytes.

    Attributes:
        index: Path or URL of the index of all shards at URLs; None: ``index.json`` beside the shards.
        cache_dir: Folder for whole shards, shared by all processes of a host: the first that needs a shard fetches it,
            the others wait. For disks that hold the data set, servers that give whole files only, and ``pipe:``.
        cache_gib: Size at which shards that were not used for longest are removed from it, in GiB; shards that are just
            being fetched come on top. None: it holds all. See `EpochOptions.shards_at_once`.
        tries: Of each request, with waits from half a second to half a minute between them.
        timeout: Seconds without a byte after which a request over HTTP has failed; others have their own.

    Raises:
        ValueError: If a number is not positive, or for a size without a folder.
    """

    index: str | None = None
    cache_dir: str | None = None
    cache_gib: float | None = None
    tries: int = 8
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if self.tries < 1 or self.timeout <= 0 or (self.cache_gib is not None and self.cache_gib <= 0):
            raise ValueError(f"{self}: expected positive numbers")
        if self.cache_gib is not None and self.cache_dir is None:
            raise ValueError(f"cache_gib={self.cache_gib:g} without a cache_dir")


@dataclass(frozen=True)
class LoaderOptions:
    """The processes that make clips.

    Attributes:
        workers: How many; 0 makes clips in the process of the training.
        prefetch: Clips that each worker makes ahead.
        cache_mib: Memory for decoded photographs in each worker.
        remote: How shards at URLs are read.
        memory: Make training clips on the device, from footage that is decoded once, and leave the workers to the
            validation; needs ``device_degradation``. None: the workers decode each clip anew.

    Raises:
        ValueError: If a number is negative.
    """

    workers: int = 4
    prefetch: int = 2
    cache_mib: int = 256
    remote: RemoteOptions = RemoteOptions()
    memory: MemoryOptions | None = None

    def __post_init__(self) -> None:
        if min(self.workers, self.prefetch, self.cache_mib) < 0:
            raise ValueError(f"{self}: expected numbers of 0 or more")


def rows_and_columns(name: str, crop: Crop) -> tuple[int, int]:
    """A crop as rows and columns.

    Raises:
        ValueError: Unless both are positive multiples of 8; says ``name``.
    """
    pair = (crop, crop) if isinstance(crop, int) else (crop[0], crop[1])
    if min(pair) < 8 or pair[0] % 8 or pair[1] % 8:
        raise ValueError(f"{name}={crop}: expected multiples of 8")
    return pair
