"""Ground truth for an evaluation: clips and photographs, shrunk, cropped and cut to length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from flashvsr.data import VideoError, VideoInfo, VideoReader

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".ts", ".m2ts", ".264", ".265", ".h264", ".hevc", ".y4m", ".nut")
PHOTOS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SCALE = 4
SHORTEST = 64  # of the ground truth: a stream takes LR frames of at least 16 pixels
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class Clip:
    """A ground truth.

    Attributes:
        name: Unique in one evaluation; of files in a folder, the path below it.
        frames: `[T, 3, H, W]`, uint8, H and W multiples of 4; T = 1 for a photograph.
        info: Of the source, with the size of `frames`; None for a photograph.
    """

    name: str
    frames: Tensor
    info: VideoInfo | None = None


def find_clips(sources: Sequence[str | Path]) -> dict[str, Path]:
    """Find what to evaluate on.

    Args:
        sources: Video files, photographs, and folders of them, which are searched to any depth.

    Returns:
        Files by name, in the order of `sources`, those of a folder sorted.

    Raises:
        FileNotFoundError: If a source is not there, or there is nothing to evaluate on.
        ValueError: If two files have one name.
    """
    found: dict[str, Path] = {}
    for source in map(Path, sources):
        if not source.exists():
            raise FileNotFoundError(f"{source} is not there; --data takes videos, photographs and folders of them")
        inside = sorted(file for file in source.rglob("*") if file.suffix.lower() in VIDEOS + PHOTOS)
        for file in inside if source.is_dir() else [source]:
            name = file.relative_to(source).as_posix() if source.is_dir() else file.name
            name = name.replace("/", "__")
            if name in found:
                raise ValueError(f"{found[name]} and {file} would both be called {name}; leave one out")
            found[name] = file
    if not found:
        raise FileNotFoundError(f"{', '.join(map(str, sources))}: no video and no photograph is there")
    return found


def read_clip(
    file: Path,
    name: str,
    *,
    frames: int = 32,
    short_side: int | None = 540,
    downscale: float = 1.5,
    crop: tuple[int, int] | None = None,
) -> Clip:
    """Read a ground truth.

    Footage is compressed, and its finest details are the codec's: it is shrunk (Pillow's bicubic, antialiased) before
    it may serve as a target.

    Args:
        file: A video or a photograph.
        name: Of the clip.
        frames: How many to read of a video, from its start.
        short_side: Shrink to this many pixels; None for any size.
        downscale: Shrink at least by this factor, even when the result is smaller than `short_side`; 1 for footage
            without compression.
        crop: Rows and columns to cut from the middle; a smaller picture is taken as it is. In any case, both sides
            become multiples of 4.

    Returns:
        The clip.

    Raises:
        VideoError: If the file cannot be read, is HDR, or its target would be smaller than 64 pixels.
        ValueError: If `frames` or `downscale` is below 1.
    """
    if frames < 1 or downscale < 1:
        raise ValueError(f"frames and downscale are at least 1, got {frames} and {downscale}")
    if file.suffix.lower() in PHOTOS:
        try:
            with Image.open(file) as photo:
                pictures, info = [ImageOps.exif_transpose(photo).convert("RGB")], None
        except OSError as error:
            raise VideoError(f"cannot read {file}: {error}\ncheck that it is a photograph") from error
    else:
        with VideoReader(file) as reader:
            info = reader.info
            if info.is_hdr:
                raise VideoError(f"{file} is HDR, and metrics are defined for SDR\ntone-map it first, or leave it out")
            pictures = [_picture(frame.pixels) for frame in islice(reader, frames)]
    width, height = pictures[0].size
    factor = max(downscale, min(height, width) / (short_side or min(height, width)))
    size = (round(height / factor), round(width / factor))
    box = [side // SCALE * SCALE for side in size]
    if crop is not None:
        box = [min(side, cut // SCALE * SCALE) for side, cut in zip(box, crop, strict=True)]
    if min(box) < SHORTEST:
        raise VideoError(
            f"{file} gives a target of {box[0]}x{box[1]}\nexpected at least {SHORTEST} pixels: shrink or crop it less"
        )
    top, left = ((side - cut) // 2 for side, cut in zip(size, box, strict=True))
    shrunk = [picture.resize((size[1], size[0]), FILTERS["bicubic"]) for picture in pictures]
    cut = [picture.crop((left, top, left + box[1], top + box[0])) for picture in shrunk]
    if info is not None:
        info = VideoInfo(box[1], box[0], info.frame_rate, info.time_base, len(cut), source=name)
    return Clip(name, torch.stack([_tensor(picture) for picture in cut]), info)


def resize(frames: Tensor, size: tuple[int, int], method: str = "bicubic") -> Tensor:
    """Resize with Pillow, antialiased when it shrinks.

    Args:
        frames: `[T, 3, h, w]`, uint8.
        size: Target rows and columns.
        method: ``"bicubic"`` or ``"lanczos"``.

    Returns:
        `[T, 3, H, W]`, uint8.
    """
    resized = [_picture(frame).resize((size[1], size[0]), FILTERS[method]) for frame in frames]
    return torch.stack([_tensor(picture) for picture in resized])


def _picture(pixels: Tensor) -> Image.Image:
    """`[3, h, w]`, uint8 or floating point in [0, 1]."""
    if pixels.is_floating_point():
        pixels = pixels.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
