"""What an evaluation runs on: clips and photographs, shrunk, cropped and cut to length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from flashvsr.data.degrade.resize import SCALE
from flashvsr.video import VideoError, VideoInfo, VideoReader

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".ts", ".m2ts", ".264", ".265", ".h264", ".hevc", ".y4m", ".nut")
PHOTOS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
IMAGES_PER_SECOND = Fraction(25)  # where a clip does not say; only shown videos use it
SHORTEST = 64  # of the ground truth: a stream takes LR frames of at least 16 pixels
FILTERS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


@dataclass(frozen=True)
class ReferenceClip:
    """A ground truth.

    Attributes:
        name: Unique in one evaluation; of files in a folder, the path below it.
        frames: `[T, 3, H, W]`, uint8, H and W multiples of 4; T = 1 for a photograph.
        info: Of the source, with the size of `frames`; None for a photograph.
    """

    name: str
    frames: Tensor
    info: VideoInfo | None = None


@dataclass(frozen=True)
class LowClip:
    """An LR clip that has no ground truth, such as those of VideoLQ.

    Attributes:
        name: Unique in one evaluation.
        lr: `[T, 3, h, w]`, uint8, of any size from 16.
        info: Of the source, with four times the size of `lr`; None for a photograph.
    """

    name: str
    lr: Tensor
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
    frames: int | None = 32,
    short_side: int | None = 540,
    downscale: float = 1.5,
    crop: tuple[int, int] | None = None,
    multiple: int = SCALE,
) -> ReferenceClip:
    """Read a ground truth.

    Footage is compressed, and its finest details are the codec's: it is shrunk (Pillow's bicubic, antialiased) before
    it may serve as a target.

    Args:
        file: A video, a photograph, or a folder of numbered images, which is a clip.
        name: Of the clip.
        frames: How many to read of a clip, from its start; None for all.
        short_side: Shrink to this many pixels; None for any size.
        downscale: Shrink at least by this factor, even when the result is smaller than `short_side`; 1 for footage
            without compression.
        crop: Rows and columns to cut from the middle; a smaller picture is taken as it is.
        multiple: Both sides are cut to multiples of this; the degradation by an encoder needs 8.

    Returns:
        The clip.

    Raises:
        VideoError: If the file cannot be read, is HDR, or its target would be smaller than 64 pixels.
        ValueError: If `frames` or `downscale` is below 1.
    """
    if downscale < 1:
        raise ValueError(f"downscale is at least 1, got {downscale}")
    pictures = _read(file, frames)
    first = next(pictures)
    width, height = first.size
    factor = max(downscale, min(height, width) / (short_side or min(height, width)))
    size = (round(height / factor), round(width / factor))
    box = [side // multiple * multiple for side in size]
    if crop is not None:
        box = [min(side, cut // multiple * multiple) for side, cut in zip(box, crop, strict=True)]
    if min(box) < SHORTEST:
        raise VideoError(
            f"{file} gives a target of {box[0]}x{box[1]}\nexpected at least {SHORTEST} pixels: shrink or crop it less"
        )
    sized = (picture.resize((size[1], size[0]), FILTERS["bicubic"]) for picture in chain([first], pictures))
    cut = _cut(sized, box)
    return ReferenceClip(name, cut, _info(file, cut.shape, name))


def read_low_clip(file: Path, name: str, *, frames: int | None = None, crop: tuple[int, int] | None = None) -> LowClip:
    """Read an LR clip as it is.

    Args:
        file: A video, a photograph, or a folder of numbered images, which is a clip.
        name: Of the clip.
        frames: How many to read, from the start; None for all.
        crop: Rows and columns of the *output* to keep from the middle: a quarter of them is cut from the LR frames; a
            smaller picture is taken as it is.

    Returns:
        The clip.

    Raises:
        VideoError: If the file cannot be read, is HDR, or is smaller than 16 pixels.
        ValueError: If `frames` is below 1.
    """
    pictures = _read(file, frames)
    first = next(pictures)
    box = [first.height, first.width]
    if crop is not None:
        box = [min(side, cut // SCALE) for side, cut in zip(box, crop, strict=True)]
    if min(box) < SHORTEST // SCALE:
        raise VideoError(f"{file} gives LR frames of {box[0]}x{box[1]}\nexpected at least {SHORTEST // SCALE} pixels")
    lr = _cut(chain([first], pictures), box)
    return LowClip(name, lr, _info(file, (len(lr), 3, SCALE * box[0], SCALE * box[1]), name))


def frame_files(folder: Path) -> list[Path]:
    """The images of a clip, in the order of their numbers.

    Args:
        folder: Holds images whose names end in a number, such as ``00000042.png``; other files are ignored.

    Returns:
        The files; empty when there are none, or no such folder.

    Raises:
        VideoError: If a number is missing between others, or there twice.
    """
    if not folder.is_dir():
        return []
    named = [file for file in folder.iterdir() if file.suffix.lower() in PHOTOS]
    found = sorted((int(match[0]), file) for file in named if (match := re.search(r"\d+$", file.stem)))
    for (number, file), (following, other) in pairwise(found):
        if following == number:
            raise VideoError(f"{file} and {other.name} have one number\nkeep one series of images in a folder")
        if following != number + 1:
            raise VideoError(f"{folder}: frame {number + 1} is missing, {other.name} follows {file.name}")
    return [file for _, file in found]


def _read(path: Path, frames: int | None) -> Iterator[Image.Image]:
    """The frames of a clip, at least one, or a photograph."""
    if frames is not None and frames < 1:
        raise ValueError(f"frames is at least 1, got {frames}")
    if path.suffix.lower() in PHOTOS:
        yield _photo(path)
    elif path.is_dir():
        files = frame_files(path)[:frames]
        if not files:
            raise VideoError(f"{path} holds no numbered images\nexpected 00000000.png and so on")
        size = _photo(files[0]).size
        for file in files:
            picture = _photo(file)
            if picture.size != size:
                raise VideoError(f"{file} is not of the size of {files[0].name}\na clip has frames of one size")
            yield picture
    else:
        with VideoReader(path) as reader:
            if reader.info.is_hdr:
                raise VideoError(f"{path} is HDR, and metrics are defined for SDR\ntone-map it first, or leave it out")
            for frame in islice(reader, frames):
                yield _picture(frame.pixels)


def _photo(file: Path) -> Image.Image:
    try:
        with Image.open(file) as photo:
            return ImageOps.exif_transpose(photo).convert("RGB")
    except OSError as error:
        raise VideoError(f"cannot read {file}: {error}\ncheck that it is a photograph") from error


def _cut(pictures: Iterable[Image.Image], box: Sequence[int]) -> Tensor:
    """The middle of each picture, `[T, 3, *box]`, uint8."""
    cut = []
    for picture in pictures:
        top, left = (picture.height - box[0]) // 2, (picture.width - box[1]) // 2
        cut.append(_tensor(picture.crop((left, top, left + box[1], top + box[0]))))
    return torch.stack(cut)


def _info(path: Path, shape: Sequence[int], name: str) -> VideoInfo | None:
    """Of frames `[T, 3, H, W]` read from there; None for a photograph."""
    if path.suffix.lower() in PHOTOS:
        return None
    rate = None if path.is_dir() else _rate(path)
    rate = rate or IMAGES_PER_SECOND
    return VideoInfo(shape[3], shape[2], rate, 1 / rate, shape[0], source=name)


def _rate(video: Path) -> Fraction | None:
    with VideoReader(video) as reader:
        return reader.info.frame_rate


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
