"""Frames of a part of a video file, upright, without bars, as 8-bit SDR."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import torch
from torch import Tensor

from flashvsr.video.info import VideoError, file_url, plain_errors
from flashvsr.video.picture.crop import NO_CROP, UNALIGNED, Crop
from flashvsr.video.picture.pixels import ToRGB, bit_depth, frame_colors, resolve_colors
from flashvsr.video.picture.tone_map import tone_map
from flashvsr.video.tags import LENIENT

_STEPS_BACK = (0, 5, 30)  # seconds before a wanted frame to try, then the beginning: not every index is exact
_BEFORE = 10  # seconds: MPEG-TS finds its first key frame only from well before it


@contextmanager
def open_picture(path: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream that is no cover; decoding uses one thread.

    Raises:
        VideoError: If there is none, and for any error of FFmpeg inside the block.
    """
    with plain_errors(f"cannot read {path}", "damaged"), av.open(file_url(path), "r", **LENIENT) as container:
        for stream in container.streams.video:
            if not int(stream.disposition) & int(av.stream.Disposition.attached_pic):
                if stream.codec_context is None:
                    raise VideoError(f"{path}: unknown video codec")
                stream.thread_type, stream.codec_context.thread_count = "NONE", 1
                stream.codec_context.flags |= UNALIGNED
                yield container, stream
                return
        raise VideoError(f"{path} has no video stream")


def frames_from(container: Any, stream: Any, start: int) -> Iterator[av.VideoFrame]:
    """Decoded frames from a tick on, in order, each with a time."""
    beginning = stream.start_time or 0
    for target in (*(start - round(back / stream.time_base) for back in _STEPS_BACK), beginning):
        seek(container, stream, target if target > beginning else beginning - round(_BEFORE / stream.time_base))
        frames = container.decode(stream)
        first = next(frames, None)
        if first is not None and first.pts is not None and first.pts <= start:
            break
    latest = None
    while first is not None:
        if first.pts is not None and first.pts >= start and (latest is None or first.pts > latest):
            latest = first.pts
            yield first
        first = next(frames, None)


def seek(container: Any, stream: Any, target: int) -> None:
    """Go to a key frame at or before a tick, as far as the container's index is right."""
    try:
        container.seek(target, stream=stream, backward=True)
    except av.FFmpegError:  # some know no time before their first
        container.seek(max(target, stream.start_time or 0), stream=stream, backward=True)


class Pixels:
    """Decoded frames to `[3, h, w]` uint8: upright, HDR mapped to SDR, black bars cut off.

    Args:
        box: Top, left, rows, columns to keep; None keeps all.
        crop: Of the container (`container_crop`), applied first.
        codec: Canonical name of the codec, which tells the range of gray that is not tagged.
    """

    def __init__(
        self, box: tuple[int, int, int, int] | None = None, crop: Crop = NO_CROP, codec: str | None = None
    ) -> None:
        self._box = box
        self._codec = codec
        self._crop = crop
        self._convert: ToRGB | None = None

    def __call__(self, frame: av.VideoFrame) -> Tensor:
        """The pixels of one frame."""
        colors = frame_colors(frame, self._codec)
        hdr = colors.transfer in (16, 18) and bit_depth(frame) > 8
        if self._convert is None:
            self._convert = ToRGB(resolve_colors(colors, frame.width, frame.height), deep=hdr, crop=self._crop)
        pixels = self._convert(frame)
        if hdr:
            mapped = tone_map(pixels, resolve_colors(colors, frame.width, frame.height))
            pixels = mapped.mul_(255).round_().to(torch.uint8)
        if self._box is None:
            return pixels
        top, left, height, width = self._box
        return pixels[:, top : top + height, left : left + width]


def length_of(container: Any, stream: Any) -> float | None:
    """Seconds, as the file states them; None when it does not."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / av.time_base
    return None


def rate_of(stream: Any) -> Fraction | None:
    """Average frames per second; None when the file does not say."""
    return stream.average_rate or stream.guessed_rate
