"""From the bytes of a sample to a clip of pixels: the frames wanted, the crop wanted, nothing else decoded."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashvsr.data.tar_samples import Entry
from flashvsr.video.info import VideoError, plain_errors
from flashvsr.video.picture.crop import UNALIGNED
from flashvsr.video.picture.pixels import ToRGB, frame_colors, resolve_colors

_MOST_REORDERED = 16  # frames that a codec may store after one that is shown later


def decode_clip(media: bytes, start: int, frames: int, corner: tuple[int, int], crop: tuple[int, int]) -> Tensor:
    """Consecutive frames of a video, cropped; decoding begins at the key frame before the first.

    Args:
        media: A whole video file.
        start: Number of the first frame.
        frames: How many.
        corner: Row and column of the crop; rounded down to even ones, where colour samples begin.
        crop: Rows and columns; even.

    Returns:
        `[T, 3, *crop]` uint8, in the file's own transfer function. ``T < frames`` when the video ends before.

    Raises:
        VideoError: If it is damaged, ends before ``start``, or is smaller than the crop's far corner.
    """
    top, left = (side - side % 2 for side in corner)
    pictures: list[Tensor] = []
    with plain_errors("cannot decode", "damaged"), av.open(io.BytesIO(media), "r") as container:
        if not container.streams.video:
            raise VideoError("cannot decode: no video stream")
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        stream.codec_context.flags |= UNALIGNED
        rate = stream.average_rate
        if rate is None or stream.time_base is None:
            raise VideoError("cannot decode: states no frame rate")
        convert: ToRGB | None = None
        for number, frame in _numbered_from(container, stream, start, rate):
            if number < start:
                continue
            part = _cut_out(frame, top, left, *crop)
            if convert is None:
                colors = frame_colors(frame, stream.codec_context.codec.canonical_name)
                convert = ToRGB(resolve_colors(colors, frame.width, frame.height), deep=False)
            pictures.append(convert(part))
            if len(pictures) == frames:
                break
    if not pictures:
        raise VideoError(f"cannot decode: no frame {start}")
    return torch.stack(pictures)


def _numbered_from(container: Any, stream: Any, start: int, rate: Fraction) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded frames with their numbers, from a key frame at or before the one asked for.

    Where B-frames are shown before a key frame but stored after it (an open group of pictures), a seek to one of them
    ends at that key frame, which is too late: then it is tried further back.
    """
    origin, frames_per_tick = stream.start_time or 0, stream.time_base * rate
    for first in dict.fromkeys((start, max(0, start - _MOST_REORDERED), 0)):
        if start:
            container.seek(origin + round(first / frames_per_tick), stream=stream, backward=True)
        frames = ((round(((frame.pts or 0) - origin) * frames_per_tick), frame) for frame in container.decode(stream))
        found = next(frames, None)
        if found is not None and (found[0] <= start or first == 0):
            yield found
            yield from frames
            return


def _cut_out(frame: av.VideoFrame, top: int, left: int, height: int, width: int) -> av.VideoFrame:
    """A part of a frame, so that only its pixels are converted to RGB."""
    if frame.height < top + height or frame.width < left + width:
        raise VideoError(f"cannot decode: {frame.width}x{frame.height} is smaller than its metadata says")
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        whole = frame.to_ndarray(format="rgb24")
        return av.VideoFrame.from_ndarray(whole[top : top + height, left : left + width].copy(), format="rgb24")
    part = av.VideoFrame(width, height, frame.format.name)
    for number, (source, target) in enumerate(zip(frame.planes, part.planes, strict=True)):
        half = 1 if number == 0 else 2
        rows, columns = slice(top // half, (top + height) // half), slice(left // half, (left + width) // half)
        _pixels(target)[: height // half, : width // half] = _pixels(source)[rows, columns]
    return part


def _pixels(plane: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)


def reflect_in_time(clip: Tensor, frames: int) -> Tensor:
    """Play a clip `[T, ...]` forwards and backwards until it has ``frames`` frames; the turning frames come once."""
    length = clip.shape[0]
    if length >= frames:
        return clip[:frames]
    period = max(1, 2 * (length - 1))
    numbers = torch.arange(frames) % period
    return clip[torch.minimum(numbers, period - numbers) if length > 1 else numbers * 0]


def decode_image(media: bytes) -> Image.Image:
    """An RGB picture.

    Raises:
        VideoError: If it is damaged.
    """
    try:
        with Image.open(io.BytesIO(media)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow calls a broken PNG a SyntaxError
        raise VideoError("cannot decode: no image, or damaged") from error


class PhotoCache:
    """The photographs decoded last, up to some memory.

    Args:
        mib: In MiB; 0 keeps none.
    """

    def __init__(self, mib: int) -> None:
        self._room = mib * 2**20
        self._kept: OrderedDict[tuple[str, str], Image.Image] = OrderedDict()

    def get(self, entry: Entry, media: Any) -> Image.Image:
        """The photograph of an entry; ``media()`` gives its bytes when it has to be decoded.

        Raises:
            VideoError: If it is damaged.
        """
        name = (entry.shard, entry.key)
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        photo = decode_image(media())
        if (photo.width, photo.height) != (entry.width, entry.height):
            raise VideoError(f"cannot decode: {photo.width}x{photo.height}, its metadata says otherwise")
        self._kept[name] = photo
        self._room -= 3 * photo.width * photo.height
        while self._room < 0 and self._kept:
            _, old = self._kept.popitem(last=False)
            self._room += 3 * old.width * old.height
        return photo


def probe(media: bytes, entry: Entry) -> str | None:
    """What is wrong with the first frame of a sample; None when it decodes to the size that its metadata states."""
    try:
        if entry.kind == "image":
            PhotoCache(0).get(entry, lambda: media)
        else:
            decode_clip(media, 0, 1, (0, 0), (entry.height, entry.width))
    except VideoError as error:
        return f"{entry.shard}: {entry.key}: {str(error).splitlines()[0]}"
    return None
