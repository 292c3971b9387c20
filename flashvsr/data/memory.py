"""Footage that is decoded once and stays on a device, where clips are drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from flashvsr.data.camera_motion import CameraMotion, place_views
from flashvsr.data.clips import decode_clip, decode_image, reflect_in_time
from flashvsr.data.sampling import derive_seed
from flashvsr.data.settings import MemoryOptions
from flashvsr.data.shards import Entry, ShardIndex
from flashvsr.video.info import VideoError


class FootageInMemory:
    """Videos and photographs as bytes on one device; clips are drawn, shrunk, moved and cropped there.

    A clip is a function of the footage, the number and the seed. A pixel takes 3 bytes: 5,000 frames of 1280x720 are
    14 GB.

    Args:
        videos: Each `[T, 3, H, W]`, uint8, on one device.
        photos: Each `[3, H, W]`, likewise.
        motion: Of the camera over photographs; its ``shrink`` is not used.
        options: How clips are drawn.
    """

    def __init__(
        self, videos: Sequence[Tensor], photos: Sequence[Tensor], motion: CameraMotion, options: MemoryOptions
    ) -> None:
        self._videos, self._photos = videos, photos
        self._motion, self._options = motion, options

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
            uint8 `[B, 3, T, H, W]` on the device of the footage.
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
        return reflect_in_time(_resized(part, crop), frames)

    def _move(self, photo: Tensor, frames: int, crop: tuple[int, int], rng: np.random.Generator) -> Tensor:
        """A camera over a photograph, `[T, 3, *crop]`, uint8."""
        factor = self._factor(photo.shape[1:], crop, rng)
        size = [max(cut, round(side / factor)) for side, cut in zip(photo.shape[1:], crop, strict=True)]
        small = _resized(photo[None], size)
        matrices, still = place_views((size[0], size[1]), frames, crop, rng, self._motion)
        if still:
            left, top = (int(corner) for corner in matrices[0, :, 2])
            return small[:, :, top : top + crop[0], left : left + crop[1]].expand(frames, -1, -1, -1)
        return _warped(small, torch.from_numpy(matrices).float(), crop)


def load_footage(
    index: ShardIndex,
    videos: Sequence[Entry],
    photos: Sequence[Entry],
    device: torch.device | str,
    motion: CameraMotion,
    options: MemoryOptions,
) -> FootageInMemory:
    """Decode what shards hold, all of it, onto a device.

    Args:
        index: Of the shards.
        videos: Entries to decode.
        photos: Likewise.
        device: Where the footage is kept.
        motion: Of the camera over photographs.
        options: How clips are drawn, and with how many threads this decodes.

    Returns:
        The footage, in the order of the entries.

    Raises:
        VideoError: If a sample is broken; says which.
    """

    def read(entry: Entry) -> Tensor:
        try:
            if entry.kind == "image":
                pixels = np.array(decode_image(index.read(entry)))
                return torch.from_numpy(pixels).permute(2, 0, 1).to(device).contiguous()
            clip = decode_clip(index.read(entry), 0, entry.frames, (0, 0), (entry.height, entry.width))
            return clip.to(device)
        except VideoError as error:
            raise VideoError(
                f"{entry.shard}: {entry.key}: {error}\nfootage in memory has to be whole: take the sample out"
            ) from error

    with ThreadPoolExecutor(options.threads) as pool:
        made = list(pool.map(read, [*videos, *photos]))
    return FootageInMemory(made[: len(videos)], made[len(videos) :], motion, options)


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
