"""Containers: their names, what they can hold of times, and how one is opened for writing."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import av

from flashvsr.video.addresses import format_of, is_address
from flashvsr.video.images import PICTURE_SUFFIXES
from flashvsr.video.info import VideoError, VideoInfo, file_url, plain_errors

_FORMAT_NAMES = {"mkv": "matroska", "y4m": "yuv4mpegpipe", "ts": "mpegts", "m4v": "mp4"}
_NEED_SEEKING = ("mp4", "mov", "ipod", "3gp", "3g2", "avi")
MP4_LIKE = ("mp4", "mov", "ipod")
"""Names of MP4 and of what is made like it."""
ADDS_UP = MP4_LIKE
"""Containers whose length is that of all packets together, in decoding order."""
_FINE = Fraction(1, 240_000)  # seconds: a multiple of all usual rates
_VARIABLE_RATE = 0x400  # AVFMT_VARIABLE_FPS


def pick_format(target: str | Path, format: str) -> str:
    """Name of the container format as FFmpeg knows it.

    Args:
        target: File name or ``"-"``.
        format: ``"auto"`` or a name; ``mkv``, ``ts`` and ``y4m`` are understood.

    Raises:
        VideoError: Unknown ending or format, or one that cannot go to a pipe.
    """
    name = str(target)
    if format == "auto":
        ending = Path(name).suffix.lower()
        if ending in PICTURE_SUFFIXES:
            raise VideoError(
                f"{name} is one picture, not a video\nname a folder, or a pattern such as {Path(name).stem}_%05d.png"
            )
        format = "matroska" if name == "-" else format_of(name) if is_address(name) else _by_ending(name)
    format = _FORMAT_NAMES.get(format, format)
    try:
        known = av.ContainerFormat(format, "w")
    except ValueError as error:
        raise VideoError(
            f"unknown format {format!r}\nexpected one such as mp4, mov, matroska, webm, nut, y4m, mpegts"
        ) from error
    if (name == "-" or is_address(name)) and known.name in _NEED_SEEKING:
        raise VideoError(
            f"{known.name} cannot be written to a pipe\nuse --format matroska, nut, y4m or mpegts, or write to a file"
        )
    return known.name


def clock_of(format: str, time_base: Fraction, longest: int = 0) -> Fraction:
    """Seconds per tick for times in a container of this format: those asked for unless it cannot tell pauses in them.

    Args:
        format: From `pick_format`.
        time_base: Seconds per tick of the times at hand.
        longest: Ticks between two frames at most, when that is known; MP4 holds 31 bits of them.
    """
    too_fine = longest >= 1 << 31 or time_base < Fraction(1, 50_000_000)
    return _FINE if format in MP4_LIKE and too_fine else time_base


def longest_pause(info: VideoInfo) -> int:
    """Ticks between two frames at most on a clock so fine that it matters: the whole video; 0 if unknown."""
    if info.time_base >= _FINE or info.frames is None or info.frame_rate is None:
        return 0
    return ceil(info.frames / info.frame_rate / info.time_base)


def keeps_times(format: str) -> bool:
    """Whether a container, named as by `pick_format`, holds a time for each frame and not just a frame rate."""
    return bool(av.ContainerFormat(format, "w").flags & _VARIABLE_RATE)


def open_output(target: str | Path, format: str, time_base: Fraction, *, shift: bool) -> Any:
    """Open a container for writing, with the settings that keep times exact and put the index of MP4 in front.

    Args:
        target: File name or ``"-"``; its folder must exist.
        format: From `pick_format`.
        time_base: Of the picture.
        shift: Whether all times may move together, so that none is negative.

    Raises:
        VideoError: The file cannot be made.
    """
    options = {"strict": "-1"}  # 10-bit Y4M
    if format in MP4_LIKE:
        options |= {"movflags": "faststart", "movie_timescale": str(max(1000, min(time_base.denominator, 1 << 30)))}
    if format == "nut" and not shift:
        options["avoid_negative_ts"] = "disabled"  # the times of a segment are absolute
    name = "stdout" if str(target) == "-" else str(target)
    if is_address(name):
        return av.open(name, "w", format=format, container_options=options | {"flush_packets": "1"})
    if format == "hls":  # the last half minute, from folders of other pieces as well
        options |= {"hls_time": "2", "hls_list_size": "15", "hls_flags": "delete_segments+independent_segments"}
    with plain_errors(f"cannot write {name}", "check that the folder exists and may be written"):
        if name != "stdout":
            Path(name).open("wb").close()  # PyAV opens it only with the first packet: too late for a plain error
        return av.open("pipe:1" if name == "stdout" else file_url(name), "w", format=format, container_options=options)


def discard(container: Any, path: Path | None) -> None:
    """Close an output that failed and delete its file."""
    with suppress(av.FFmpegError, OSError):  # it failed before: that error is the one to report
        container.close()
    if path is not None and path.is_file():
        path.unlink()


def _by_ending(name: str) -> str:
    ending = Path(name).suffix.lower().lstrip(".")
    for candidate in (_FORMAT_NAMES.get(ending, ending), *sorted(av.formats_available)):
        try:
            known = av.ContainerFormat(candidate, "w")
        except ValueError:
            continue
        if candidate == _FORMAT_NAMES.get(ending, ending) or ending in known.extensions:
            return known.name
    raise VideoError(
        f"{name}: no format has the ending {Path(name).suffix!r}\nuse .mp4, .mkv, .mov or .webm, or name a --format"
    )
