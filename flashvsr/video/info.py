"""What is known about a video: its frames, its tracks, its colours; and what can go wrong with it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from torch import Tensor


class VideoError(Exception):
    """Anything about a file that its user can put right.

    The message is one or two lines: what is wrong, and what to do. Reading and writing raise nothing else
    for a bad file, a full disk, an unknown codec or a closed pipe.
    """


def file_url(path: str | Path) -> str:
    """A path as FFmpeg opens it whatever is in its name; without this ``a:b.mp4`` asks for a protocol ``a``."""
    return f"file:{path}"


@contextmanager
def plain_errors(doing: str | Callable[[], str], advice: str) -> Iterator[None]:
    """Turn errors of FFmpeg and of the file system into a `VideoError`.

    Args:
        doing: What failed on which file, such as ``"cannot read clip.mp4"``, or a function that says it afterwards.
        advice: What to do when the error itself does not tell.

    Raises:
        VideoError: For any FFmpeg or file-system error inside the block; for a full disk, a missing permission and a
            closed pipe the advice is about that.
    """
    known = {
        errno.ENOSPC: "free some space or write to another disk, then run again",
        errno.EACCES: "check the permissions of the file and its folder",
        errno.EROFS: "write to another disk",
        errno.EPIPE: "the program reading the pipe has stopped",
        errno.ENOMEM: "close other programs or use a machine with more memory",
    }
    try:
        yield
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or type(error).__name__
        failed = doing if isinstance(doing, str) else doing()
        raise VideoError(f"{failed}: {reason}\n{known.get(error.errno or 0, advice)}") from error


@dataclass(frozen=True)
class Track:
    """A stream beside the picture, to be copied and not decoded.

    Attributes:
        index: Its number in the file.
        kind: ``"audio"``, ``"subtitle"``, ``"data"``, ``"attachment"``, or ``"video"`` for a second picture or a cover.
        codec: Codec name such as ``"aac"``, or ``"unknown"``.
        language: Three letters as tagged, or None.
    """

    index: int
    kind: str
    codec: str
    language: str | None = None


@dataclass(frozen=True)
class Colors:
    """Colour tags, as the integers that H.264, HEVC and every container share (ITU-T H.273); 2 is unspecified.

    Attributes:
        primaries: 1 bt709, 5 and 6 bt601, 9 bt2020.
        transfer: 1 bt709, 13 sRGB, 16 PQ, 18 HLG.
        matrix: 0 RGB, 1 bt709, 5 and 6 bt601, 9 bt2020.
        range: 0 unspecified, 1 limited (16..235), 2 full (0..255).

    Reference:
        ITU-T H.273, Coding-independent code points, tables 2 to 4.
    """

    primaries: int = 2
    transfer: int = 2
    matrix: int = 2
    range: int = 0


@dataclass(frozen=True)
class VideoInfo:
    """What is known about a video before its frames are read.

    Attributes:
        width: Columns as displayed, after rotation.
        height: Rows as displayed, after rotation.
        frame_rate: Average frames per second, rational (24000/1001 stays that); None when unknown.
        time_base: Seconds per tick such that every ``VideoFrame.time`` is a whole number of ticks.
        frames: Estimated number of frames, for progress only; None when unknown.
        bit_depth: 8, or 10 for everything deeper (10, 12 or 16 bits).
        colors: Colour tags of the source; what is unspecified is filled in by ``picture.pixels.resolve_colors``.
        pixel_aspect: Width of a pixel over its height, after rotation; 1 when unspecified.
        rotation: Quarter turns were applied to the pixels to stand them upright: degrees, counter-clockwise, in
            {0, 90, 180, 270}. Frames are already upright; nothing is left to do.
        tracks: The other streams of the file, in file order.
        is_pipe: The source is read once, from stdin, and cannot be opened again.
        mastering_display: HDR10 mastering metadata in x265's notation (``"G(..)B(..)R(..)WP(..)L(..)"``), or None.
        content_light: HDR10 ``"MaxCLL,MaxFALL"``, or None.
        has_alpha: Whether the first frame is transparent in places; all frames come with their opacity then.
        icc_profile: Of an RGB picture; None when it has none.
        source: The name to use in messages.
    """

    width: int
    height: int
    frame_rate: Fraction | None
    time_base: Fraction = Fraction(1, 90000)
    frames: int | None = None
    bit_depth: int = 8
    colors: Colors = field(default_factory=Colors)
    pixel_aspect: Fraction = Fraction(1)
    rotation: int = 0
    tracks: tuple[Track, ...] = ()
    is_pipe: bool = False
    mastering_display: str | None = None
    content_light: str | None = None
    has_alpha: bool = False
    icc_profile: bytes | None = None
    source: str = ""

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer function is PQ (16) or HLG (18)."""
        return self.colors.transfer in (16, 18)


@dataclass(frozen=True)
class VideoFrame:
    """One picture, upright.

    Attributes:
        pixels: `[3, h, w]` RGB, uint8 for 8-bit sources, float32 in [0, 1] for deeper ones. The transfer function is
            the source's own (nothing is linearised or tone-mapped).
        time: Seconds since the first frame; exact, strictly increasing, 0 for the first.
        alpha: `[h, w]` float32, 0 transparent to 1 opaque; None where `VideoInfo.has_alpha` is False. Colours are not
            premultiplied.
    """

    pixels: Tensor
    time: Fraction
    alpha: Tensor | None = None
