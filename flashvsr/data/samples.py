"""Training samples as a dataset: the plan of a batch goes in, uint8 tensors come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from flashvsr.data.camera_motion import CameraMotion, animate
from flashvsr.data.clips import PhotoCache, decode_clip, reflect_in_time
from flashvsr.data.sampling import BatchPlan, Draw, derive_seed
from flashvsr.data.shards import ShardIndex
from flashvsr.data.tar_samples import Entry, ShardError
from flashvsr.video.info import VideoError

_ATTEMPTS = 16


class ClipDataset(Dataset):
    """Makes the batches that a plan names. A broken sample is replaced by another of its kind, and reported.

    Args:
        index: Of the shards.
        videos: Entries to draw from.
        photos: The same.
        frames: Length of a clip.
        crop: Rows and columns of a clip.
        image_crop: The same of single images.
        degradation: Clip `[T,3,H,W]` uint8 and seed to `[T,3,H/4,W/4]` uint8; None leaves it to the device.
        motion: Of the camera, for photographs.
        augment: Random place, flips and time reversal; else the centre in space and time.
        cache_mib: For decoded photographs, in each worker.
    """

    def __init__(
        self,
        index: ShardIndex,
        videos: list[Entry],
        photos: list[Entry],
        *,
        frames: int,
        crop: tuple[int, int],
        image_crop: tuple[int, int],
        degradation: Callable[[Tensor, int], Tensor] | None,
        motion: CameraMotion,
        augment: bool = True,
        cache_mib: int = 0,
    ) -> None:
        self._index, self._entries = index, (videos, photos)
        self._frames, self._crop, self._image_crop = frames, crop, image_crop
        self._degradation, self._motion, self._augment = degradation, motion, augment
        self._cache = PhotoCache(cache_mib)

    def __getitem__(self, plan: BatchPlan) -> dict[str, Any]:
        """A batch.

        Returns:
            ``hr`` `[B,3,T,H,W]` and, unless the device degrades, ``lr`` `[B,3,T,H/4,W/4]`, both uint8; ``seed`` `[B]`;
            with images the same under ``image``; ``position`` (epoch, batch); ``broken``, a list of lines.

        Raises:
            ShardError: If many samples in a row are broken.
        """
        broken: list[str] = []
        batch = self._batch(plan.clips, self._frames, self._crop, broken)
        if plan.images:
            batch["image"] = self._batch(plan.images, 1, self._image_crop, broken)
        return batch | {"position": (plan.epoch, plan.batch), "broken": broken}

    def _batch(self, draws: tuple[Draw, ...], frames: int, crop: tuple[int, int], broken: list[str]) -> dict[str, Any]:
        clips = [self._clip(draw, frames, crop, broken) for draw in draws]
        batch = {"hr": _stack(clips), "seed": torch.tensor([draw.seed for draw in draws])}
        if self._degradation is not None:
            small = [self._degradation(clip, draw.seed) for clip, draw in zip(clips, draws, strict=True)]
            _check_small(small[0], clips[0])
            batch["lr"] = _stack(small)
        return batch

    def _clip(self, draw: Draw, frames: int, crop: tuple[int, int], broken: list[str]) -> Tensor:
        """`[T,3,H,W]` uint8."""
        entries, number = self._entries[draw.photo], draw.number
        for attempt in range(1, _ATTEMPTS + 1):
            entry = entries[number]
            rng = np.random.default_rng(derive_seed(draw.seed, attempt))
            try:
                clip = self._photo(entry, frames, crop, rng) if draw.photo else self._video(entry, frames, crop, rng)
            except VideoError as error:
                broken.append(f"{entry.shard}: {entry.key}: {str(error).splitlines()[0]}")
                number = derive_seed(draw.seed, attempt, "instead") % len(entries)
            else:
                return self._flip(clip, rng)
        raise ShardError(
            f"{_ATTEMPTS} broken samples in a row, the last: {broken[-1]}\n"
            "`flashvsr shards show --decode` names all that are broken"
        )

    def _photo(self, entry: Entry, frames: int, crop: tuple[int, int], rng: np.random.Generator) -> Tensor:
        photo = self._cache.get(entry, lambda: self._index.read(entry))
        if frames == 1 and not self._augment:
            top, left = (photo.height - crop[0]) // 2, (photo.width - crop[1]) // 2
            photo = photo.crop((left, top, left + crop[1], top + crop[0]))
        return animate(photo, frames, crop, rng, self._motion)

    def _video(self, entry: Entry, frames: int, crop: tuple[int, int], rng: np.random.Generator) -> Tensor:
        room = (max(0, entry.frames - frames), entry.height - crop[0], entry.width - crop[1])
        if self._augment:
            start, top, left = (int(rng.integers(0, size + 1)) for size in room)
        else:
            start, top, left = (size // 2 for size in room)
        clip = decode_clip(self._index.read(entry), start, frames, (top, left), crop)
        if clip.shape[0] < min(frames, entry.frames):
            raise VideoError(f"cannot decode: ends at frame {start + clip.shape[0]}, metadata says {entry.frames}")
        return reflect_in_time(clip, frames)

    def _flip(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        if not self._augment:
            return clip
        dims = [dim for dim, probability in ((0, 0.5), (3, 0.5)) if rng.random() < probability]
        return clip.flip(dims) if dims else clip


class DrawnNumbers(Dataset):
    """What a plan names, as tensors: for footage that is on the device already."""

    def __getitem__(self, plan: BatchPlan) -> dict[str, Any]:
        """Of clips, and under ``image`` of images, `[B]` each: ``photo``, ``number`` and ``seed``."""
        batch: dict[str, Any] = _numbers(plan.clips)
        if plan.images:
            batch["image"] = _numbers(plan.images)
        return batch | {"position": (plan.epoch, plan.batch), "broken": []}


def _numbers(draws: tuple[Draw, ...]) -> dict[str, Tensor]:
    return {name: torch.tensor([getattr(draw, name) for draw in draws]) for name in ("photo", "number", "seed")}


def _stack(clips: list[Tensor]) -> Tensor:
    """Clips `[T,3,H,W]` to `[B,3,T,H,W]`."""
    return torch.stack(clips).transpose(1, 2).contiguous()


def _check_small(small: Tensor, clip: Tensor) -> None:
    frames, _, height, width = clip.shape
    if small.shape != (frames, 3, height // 4, width // 4) or small.dtype != torch.uint8:
        raise ValueError(
            f"the degradation returned {small.dtype} {tuple(small.shape)}: expected uint8"
            f" {(frames, 3, height // 4, width // 4)}"
        )
