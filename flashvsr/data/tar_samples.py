"""The samples of one tar: what each is, and where its bytes lie."""

from __future__ import annotations

import json
import math
import tarfile
from dataclasses import dataclass
from typing import IO

VIDEO_ENDINGS = ("mp4", "webm", "mkv")
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
BLOCK = 512
"""Bytes of a header, which stands before the content of each member."""


class ShardError(Exception):
    """Shards that cannot be found, read or written, or that lack what is asked of them; says the way out."""


@dataclass(frozen=True)
class Entry:
    """Where one sample lies, and what its metadata says.

    Attributes:
        shard: Path or URL of the tar, as found.
        key: Of the sample.
        ending: Of the picture: `VIDEO_ENDINGS` or `IMAGE_ENDINGS`.
        offset: First byte of the picture in the tar.
        size: Its length in bytes.
        width: In pixels.
        height: In pixels.
        frames: 1 for an image.
        fps: Frames per second; None for an image, or unknown.
    """

    shard: str
    key: str
    ending: str
    offset: int
    size: int
    width: int
    height: int
    frames: int
    fps: float | None

    @property
    def kind(self) -> str:
        """``"video"`` or ``"image"``."""
        return "video" if self.ending in VIDEO_ENDINGS else "image"


def scan_tar(file: IO[bytes], shard: str, *, stream: bool = False) -> tuple[list[Entry], list[str]]:
    """Read the headers and the metadata of a tar, and pass over its pictures.

    Args:
        file: The tar, from its first byte.
        shard: Its path or URL, for the entries.
        stream: Whether ``file`` cannot seek, so that pictures are read and thrown away.

    Returns:
        The samples that can be used, and one line for each that cannot, and why.

    Raises:
        tarfile.TarError: If it is no tar, compressed, or cut off.
        OSError: If it cannot be read.
    """
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    files: dict[str, tarfile.TarInfo] = {}
    texts: dict[str, bytes] = {}
    problems: list[str] = []
    with tarfile.open(fileobj=file, mode="r|" if stream else "r:") as tar:
        for member in tar:
            folder, _, name = member.name.rpartition("/")
            key, _, ending = name.partition(".")
            # a hard link is a second name for the bytes of an earlier member
            files[member.name] = content = files.get(member.linkname, member) if member.islnk() else member
            if content.isfile() and ending:
                groups.setdefault(f"{folder}/{key}".lstrip("/"), {})[ending.lower()] = content
                if content is member and ending.lower() == "json" and (text := tar.extractfile(member)) is not None:
                    texts[member.name] = text.read()
            elif content.islnk() or content.issym():
                problems.append(f"{member.name} is a link to {member.linkname}: left out")
    entries = []
    if not groups:
        problems.append("holds no samples")
    for key, group in groups.items():
        try:
            entries.append(_entry(shard, key, group, texts.get(group["json"].name) if "json" in group else None))
        except ValueError as error:
            problems.append(f"{key}: {error}")
    return entries, problems


def _entry(shard: str, key: str, group: dict[str, tarfile.TarInfo], text: bytes | None) -> Entry:
    """The entry of one sample; ValueError says what it lacks."""
    pictures = [ending for ending in VIDEO_ENDINGS + IMAGE_ENDINGS if ending in group]
    if len(pictures) != 1:
        raise ValueError(f"{len(pictures)} pictures among {', '.join(sorted(group))}, expected one (mp4, jpg, ...)")
    if text is None:
        raise ValueError("no json beside the picture")
    try:
        metadata = json.loads(text)
        kind = "video" if pictures[0] in VIDEO_ENDINGS else "image"
        size = {name: int(metadata[name]) for name in ("width", "height")}
        frames = int(metadata["frames"]) if kind == "video" else 1
        fps = float(metadata["fps"]) if metadata.get("fps") else None
    except KeyError as error:
        raise ValueError(f"its json lacks {error}") from error
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"its json is damaged ({error})") from error
    if min(frames, *size.values()) < 1:
        raise ValueError(f"its json says {size['width']}x{size['height']}, {frames} frames")
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"its json says {fps} frames per second")
    picture = group[pictures[0]]
    return Entry(shard, key, pictures[0], picture.offset_data, picture.size, frames=frames, fps=fps, **size)
