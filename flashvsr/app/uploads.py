"""Files from strangers: what a page accepts, and under which name it keeps it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import av

from flashvsr.video import VideoError, VideoReader, is_picture

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mpeg,mpegvideo,avi,flv,asf,ogg,mxf,nut,ivf,h264,hevc,av1,m4v,"
    "yuv4mpegpipe,gif,apng,rm,wtv,dv,image2,png_pipe,jpeg_pipe,jpegls_pipe,webp_pipe,tiff_pipe,bmp_pipe"
)
"""FFmpeg's readers that an upload may need. Playlists and lists of files are not among them: those name other files."""

LONGEST_NAME = 80
SMALLEST = 16


@dataclass(frozen=True)
class Upload:
    """What is known about an accepted file.

    Attributes:
        path: Where it is.
        name: What its owner called it, without characters that a file name or a page cannot show.
        is_picture: Whether it is one picture and not a video.
        width: Columns as displayed.
        height: Rows as displayed.
        frames: Estimated number of frames; None when unknown.
        rate: Frames per second; None when unknown.
    """

    path: Path
    name: str
    is_picture: bool
    width: int
    height: int
    frames: int | None
    rate: float | None

    @property
    def seconds(self) -> float | None:
        """Length of the video; None when unknown, 0 for a picture."""
        if self.is_picture:
            return 0.0
        return self.frames / self.rate if self.frames and self.rate else None


def check_upload(path: Path, name: str, *, most_bytes: int) -> Upload:
    """Open a file, and say what it is.

    Args:
        path: The file.
        name: What its owner called it.
        most_bytes: The largest size that is accepted.

    Returns:
        What is known about it.

    Raises:
        VideoError: If it is too large, too small, no video and no picture, or a list that names other files.
    """
    shown = plain_name(name)
    size = path.stat().st_size
    if size > most_bytes:
        raise VideoError(f"{shown} has {size / 1e9:.2f} GB, the page takes {most_bytes / 1e9:.2f} GB at most")
    try:
        with av.open(f"file:{path}", options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}):
            pass
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{shown} is no video and no picture that can be read here") from error
    try:
        with VideoReader(path) as reader:
            info = reader.info
    except VideoError as error:
        raise VideoError(str(error).replace(str(path), shown)) from error
    if min(info.width, info.height) < SMALLEST:
        raise VideoError(f"{shown} is {info.width}x{info.height}: expected at least {SMALLEST} pixels on each side")
    if is_picture(path):
        return Upload(path, shown, True, info.width, info.height, 1, None)
    rate = None if info.frame_rate is None else float(info.frame_rate)
    return Upload(path, shown, False, info.width, info.height, info.frames, rate)


def plain_name(name: str) -> str:
    """A file name without folders, control characters and what Windows refuses; at most 80 characters."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join("_" if character in '<>:"|?*%' else character for character in last)
    kept = "".join(character for character in kept if unicodedata.category(character)[0] != "C").strip()
    stem, dot, suffix = kept.rpartition(".")
    if not dot or not re.fullmatch(r"[A-Za-z0-9]{1,5}", suffix):
        stem, suffix = kept, ""
    stem = stem[:LONGEST_NAME].strip(" .") or "video"
    while len(stem.encode()) > 3 * LONGEST_NAME // 2:  # letters of several bytes: file systems count those
        stem = stem[:-1]
    return f"{stem}.{suffix}" if suffix else stem
