"""Footage that is decoded once and stays on a device, where clips are drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate
from torch.utils.data import Dataset

from flashvsr.data.camera_motion import CameraMotion, place_views
from flashvsr.data.clips import decode_clip, decode_image, reflect_in_time
from flashvsr.data.sampling import BatchPlan, Draw, derive_seed
from flashvsr.data.settings import MemoryOptions
from flashvsr.data.shards import ShardIndex
from flashvsr.data.tar_samples import Entry
from flashvsr.video.info import VideoError


class FootageInMemory:
    """Videos and photographs as bytes on one device; clips are drawn, shrunk, moved and cropped there.

    A clip is a function of the footage, the number and the seed. A pixel takes 3 bytes: 5,000 frames of 1280x720 are
    14 GB.

    Args:
        videos: Each `[T, 3, H, W]`, uint8.
        photos: Each `[3, H, W]`, likewise.
        motion: Of the camera over photographs; its ``shrink`` is not used.
        options: How clips are drawn.
        device: Where clips are made of the footage.
    """

    def __init__(
        self,
        videos: Sequence[Tensor],
        photos: Sequence[Tensor],
        motion: CameraMotion,
        options: MemoryOptions,
        device: torch.device | str = "cpu",
    ) -> None:
        self._videos, self._photos = videos, photos
        self._motion, self._options, self._device = motion, options, device

    def batch(
        self, photo: Sequence[bool], numbers: Sequence[int], seeds: Sequence[int], frames: int, crop: tuple[int, int]
    ) -> Tensor:
        """Draw clips.

        Args:
            photo: Of each clip, whether it is made from a photograph.
            numbers: Of the video or photograph among its kind.
            seeds: Of all that is random.
            frames: Length of every clip; shorter videos are reflected in time.
            crop: Rows and columns of every clip.

        Returns:
            uint8 `[B, 3, T, H, W]` on the device.
        """
        clips = []
        for kind, number, seed in zip(photo, numbers, seeds, strict=True):
            rng = np.random.default_rng(derive_seed(seed, "memory"))
            source = self._photos[number] if kind else self._videos[number]
            clip = self._move(source, frames, crop, rng) if kind else self._cut(source, frames, crop, rng)
            dims = [dim for dim in (0, 3) if rng.random() < 0.5]
            clips.append(clip.flip(dims) if dims else clip)
        return torch.stack(clips).transpose(1, 2).contiguous()

    def _factor(self, size: Sequence[int], crop: tuple[int, int], rng: np.random.Generator) -> float:
        """By how much the source is shrunk, as far as it is larger than the crop."""
        room = min(side / cut for side, cut in zip(size, crop, strict=True))
        low, high = self._options.shrink
        return min(float(rng.uniform(low, high)), room)

    def _cut(self, video: Tensor, frames: int, crop: tuple[int, int], rng: np.random.Generator) -> Tensor:
        """A part of a video, `[T, 3, *crop]`, uint8."""
        count, size = video.shape[0], video.shape[2:]
        factor = self._factor(size, crop, rng)
        box = [min(side, round(cut * factor)) for side, cut in zip(size, crop, strict=True)]
        room = (max(0, count - frames), size[0] - box[0], size[1] - box[1])
        start, top, left = (int(rng.integers(0, rest + 1)) for rest in room)
        part = video[start : start + frames, :, top : top + box[0], left : left + box[1]]
        return reflect_in_time(_resized(part.to(self._device), crop), frames)

    def _move(self, photo: Tensor, frames: int, crop: tuple[int, int], rng: np.random.Generator) -> Tensor:
        """A camera over a photograph, `[T, 3, *crop]`, uint8."""
        factor = self._factor(photo.shape[1:], crop, rng)
        size = [max(cut, round(side / factor)) for side, cut in zip(photo.shape[1:], crop, strict=True)]
        small = _resized(photo[None].to(self._device), size)
        matrices, still = place_views((size[0], size[1]), frames, crop, rng, self._motion)
        if still:
            left, top = (int(corner) for corner in matrices[0, :, 2])
            return small[:, :, top : top + crop[0], left : left + crop[1]].expand(frames, -1, -1, -1)
        return _warped(small, torch.from_numpy(matrices).float(), crop)


class StoredFrames(Sequence[Tensor]):
    """Pictures one after another in a file, which every process that has this object maps into its memory.

    Args:
        path: Of the file.
        shapes: Of the pictures, uint8, in their order.
    """

    def __init__(self, path: Path, shapes: Sequence[Sequence[int]]) -> None:
        self._path, self._shapes = path, [tuple(shape) for shape in shapes]
        self._ends = list(accumulate(prod(shape) for shape in self._shapes))

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, number: Any) -> Any:
        size = prod(self._shapes[number])
        return self._bytes[self._ends[number] - size : self._ends[number]].view(self._shapes[number])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_bytes"}

    @cached_property
    def _bytes(self) -> Tensor:
        return torch.from_numpy(np.memmap(self._path, np.uint8, "c"))  # "c": not to be written, but torch asks for more


class ClipMaker(Dataset):
    """Makes degraded clips of footage for the plans of a loader, in whichever process it is in.

    Args:
        footage: To draw from.
        degradation: `[B, 3, T, H, W]` uint8 and seeds `[B]` to `[B, 3, T, H/4, W/4]` uint8.
        frames: Length of a clip.
        crop: Rows and columns of a clip.
        image_crop: The same of single images.
    """

    def __init__(
        self,
        footage: FootageInMemory,
        degradation: Callable[[Tensor, Tensor], Tensor],
        frames: int,
        crop: tuple[int, int],
        image_crop: tuple[int, int],
    ) -> None:
        self._footage, self._degradation = footage, degradation
        self._frames, self._crop, self._image_crop = frames, crop, image_crop

    def __getitem__(self, plan: BatchPlan) -> dict[str, Any]:
        """``hr``, ``lr`` and ``seed`` on the CPU, images under ``image``, ``position`` and ``broken``."""
        batch = self._made(plan.clips, self._frames, self._crop)
        if plan.images:
            batch["image"] = self._made(plan.images, 1, self._image_crop)
        return batch | {"position": (plan.epoch, plan.batch), "broken": []}

    def _made(self, draws: tuple[Draw, ...], frames: int, crop: tuple[int, int]) -> dict[str, Any]:
        photo, number, seed = zip(*((draw.photo, draw.number, draw.seed) for draw in draws), strict=True)
        hr, seeds = self._footage.batch(photo, number, seed, frames, crop), torch.tensor(seed)
        return {"hr": hr.cpu(), "lr": self._degradation(hr, seeds).cpu(), "seed": seeds}


def load_footage(
    index: ShardIndex,
    videos: Sequence[Entry],
    photos: Sequence[Entry],
    device: torch.device | str,
    motion: CameraMotion,
    options: MemoryOptions,
    folder: Path | None = None,
) -> FootageInMemory:
    """Decode what shards hold, all of it, onto a device or into a folder.

    Args:
        index: Of the shards.
        videos: Entries to decode.
        photos: Likewise.
        device: Where clips are made.
        motion: Of the camera over photographs.
        options: How clips are drawn, and with how many threads this decodes.
        folder: For two files that several processes share; None keeps the footage on the device.

    Returns:
        The footage, in the order of the entries.

    Raises:
        VideoError: If a sample is broken; says which.
    """
    kept = "cpu" if folder else device

    def read(entry: Entry) -> Tensor:
        try:
            if entry.kind == "image":
                pixels = np.array(decode_image(index.read(entry)))
                return torch.from_numpy(pixels).permute(2, 0, 1).to(kept).contiguous()
            clip = decode_clip(index.read(entry), 0, entry.frames, (0, 0), (entry.height, entry.width))
            return clip.to(kept)
        except VideoError as error:
            raise VideoError(
                f"{entry.shard}: {entry.key}: {error}\nfootage in memory has to be whole: take the sample out"
            ) from error

    with ThreadPoolExecutor(options.threads) as pool:
        decoded = [pool.map(read, videos), pool.map(read, photos)]
        if folder is None:
            made: list[Sequence[Tensor]] = [list(frames) for frames in decoded]
        else:
            paths = (folder / "videos", folder / "photos")
            made = [_stored(frames, path) for frames, path in zip(decoded, paths, strict=True)]
    return FootageInMemory(made[0], made[1], motion, options, device)


def _stored(pictures: Iterable[Tensor], path: Path) -> StoredFrames:
    shapes = []
    with path.open("wb") as file:
        for picture in pictures:
            file.write(picture.contiguous().numpy().data)
            shapes.append(picture.shape)
    return StoredFrames(path, shapes)


def _resized(frames: Tensor, size: Sequence[int]) -> Tensor:
    """`[T, 3, H, W]` uint8, with an antialiasing bicubic filter."""
    if tuple(frames.shape[2:]) == tuple(size):
        return frames
    made = interpolate(frames.float(), tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return made.round_().clamp_(0, 255).to(torch.uint8)


def _warped(photo: Tensor, matrices: Tensor, crop: tuple[int, int]) -> Tensor:
    """Samples of `[1, 3, H, W]` along maps in pixels `[T, 2, 3]`: `[T, 3, *crop]`, uint8.

    The photograph is enlarged twofold once and each frame is a bilinear warp of that, which is closer to ideal
    interpolation than a bicubic warp of the photograph.
    """
    rows, columns = photo.shape[2:]
    large = interpolate(photo.float(), (2 * rows, 2 * columns), mode="bicubic", align_corners=False)
    half = torch.tensor([crop[1] / 2, crop[0] / 2])
    turned = matrices[:, :, :2] * half  # of output coordinates from -1 to 1
    shift = turned.sum(2) + matrices[:, :, 2]
    scale = torch.tensor([2 / columns, 2 / rows])
    maps = torch.cat((turned * scale[:, None], (shift * scale - 1)[:, :, None]), 2).to(photo.device)
    where = affine_grid(maps, [len(maps), 3, *crop], align_corners=False)
    source = large.expand(len(maps), -1, -1, -1)
    made = grid_sample(source, where, mode="bilinear", padding_mode="border", align_corners=False)
    return made.round_().clamp_(0, 255).to(torch.uint8)
