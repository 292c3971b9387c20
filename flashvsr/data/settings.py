"""Settings of the training data: what an epoch, its photographs, the validation and the workers are like."""

from __future__ import annotations

from dataclasses import dataclass

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
        turn: Whether every step mirrors and turns its clips anew: with much echo, against learning them by heart. What
            stages prepare of a clip, such as its latents, is then computed at every step.

    Raises:
        ValueError: If a number is below 1.
    """

    batches: int = 1000
    echo: int = 1
    pool: int = 1
    turn: bool = False

    def __post_init__(self) -> None:
        if min(self.batches, self.echo, self.pool) < 1:
            raise ValueError(f"{self}: batches, echo and pool count from 1")


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

    Raises:
        ValueError: For a batch size below 1, or a crop that is no multiple of 8.
    """

    batch_size: int = 1
    crop: Crop | None = None

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
            then lies in a file that they share, in the folder of temporary files or in `LoaderOptions.cache_dir`. 0:
            the process of the training makes them, between its steps.

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
class LoaderOptions:
    """The processes that make clips.

    Attributes:
        workers: How many; 0 makes clips in the process of the training.
        prefetch: Clips that each worker makes ahead.
        cache_mib: Memory for decoded photographs in each worker.
        cache_dir: For shards fetched from URLs; None: in the folder of temporary files.
        memory: Make training clips on the device, from footage that is decoded once, and leave the workers to the
            validation; needs ``device_degradation``. None: the workers decode each clip anew.

    Raises:
        ValueError: If a number is negative.
    """

    workers: int = 4
    prefetch: int = 2
    cache_mib: int = 256
    cache_dir: str | None = None
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
