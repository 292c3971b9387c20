"""Which samples lie in which shards: an index of WebDataset tars, read by position."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import mmap
import os
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VIDEO_ENDINGS = ("mp4", "webm", "mkv")
IMAGE_ENDINGS = ("jpg", "jpeg", "png", "webp")
_HEX = 16


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


class ShardIndex:
    """All samples of some shards, in a fixed order, and their bytes.

    The headers of every tar are read once; pictures are read by position when asked for, through a memory map, so
    the order of samples is free and any process may read any of them: ranks and workers need no shards of their own.
    Tars at http(s) URLs are fetched whole, once, into ``cache_dir`` before they are read. Nothing is unpickled; members
    other than pictures and json are passed over.

    A sample is one picture and one ``.json`` (an object with ``width``, ``height``, for videos ``frames``, and
    ``fps`` if known) that share a key. A sample that lacks one of them is left out and named in ``problems``.

    Args:
        shards: Paths, globs, brace patterns (``"train-{000..127}.tar"``) or http(s) URLs of tars; a folder stands for
            all ``*.tar`` in it.
        cache_dir: For fetched tars; None: ``flashvsr-shards`` in the folder of temporary files.

    Attributes:
        shards: The tars found.
        entries: The samples that can be used.
        problems: One line for each sample or shard that cannot, and why.

    Raises:
        ShardError: If a pattern matches nothing, asks for a command (``pipe:``), or a tar cannot be fetched or read.
    """

    shards: list[str]
    entries: list[Entry]
    problems: list[str]

    def __init__(self, shards: str | Path | Sequence[str | Path], *, cache_dir: str | Path | None = None) -> None:
        self._cache = Path(cache_dir or Path(tempfile.gettempdir()) / "flashvsr-shards")
        self.shards = expand_shards([shards] if isinstance(shards, str | Path) else shards)
        self._files = {shard: _local(shard, self._cache) for shard in self.shards}
        self._maps: dict[str, mmap.mmap] = {}
        self.entries, self.problems = [], []
        for shard in self.shards:
            self._add(shard)

    def read(self, entry: Entry) -> bytes:
        """The bytes of a sample's picture."""
        if entry.shard not in self._maps:
            with self._files[entry.shard].open("rb") as file:
                self._maps[entry.shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[entry.shard][entry.offset : entry.offset + entry.size]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # each process maps the files itself

    def _add(self, shard: str) -> None:
        groups: dict[str, dict[str, tarfile.TarInfo]] = {}
        files: dict[str, tarfile.TarInfo] = {}
        try:
            with tarfile.open(self._files[shard], "r:") as tar:
                for member in tar:
                    folder, _, name = member.name.rpartition("/")
                    key, _, ending = name.partition(".")
                    # a hard link is a second name for the bytes of an earlier member
                    files[member.name] = content = files.get(member.linkname, member) if member.islnk() else member
                    if content.isfile() and ending:
                        groups.setdefault(f"{folder}/{key}".lstrip("/"), {})[ending.lower()] = content
                    elif content.islnk() or content.issym():
                        self.problems.append(f"{shard}: {member.name} is a link to {member.linkname}: left out")
                texts = {
                    key: file.read()
                    for key, group in groups.items()
                    if "json" in group and (file := tar.extractfile(group["json"])) is not None
                }
        except (tarfile.TarError, OSError) as error:
            raise ShardError(f"cannot read the shard {shard}: {error}\nexpected an uncompressed tar, whole") from error
        if not groups:
            self.problems.append(f"{shard}: holds no samples")
        for key, group in groups.items():
            try:
                self.entries.append(_entry(shard, key, group, texts.get(key)))
            except ValueError as error:
                self.problems.append(f"{shard}: {key}: {error}")


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


def expand_shards(patterns: Sequence[str | Path]) -> list[str]:
    """Names of the tars that paths, folders, globs, brace patterns and URLs stand for, in order, each once.

    Raises:
        ShardError: For ``pipe:`` and unknown protocols, for no pattern, and for one that matches nothing.
    """
    from webdataset.shardlists import expand_urls

    found: dict[str, None] = {}
    for pattern in map(str, patterns):
        for name in expand_urls(pattern):
            protocol = name.split(":", 1)[0] if ":" in name else ""
            if protocol in ("http", "https"):
                found[name] = None
                continue
            if protocol == "pipe" or "://" in name:
                raise ShardError(f"shards {name!r} are refused\nexpected a path, glob, {{000..007}} or http(s) URL")
            path = Path(name)
            matches = sorted(map(str, path.glob("*.tar"))) if path.is_dir() else sorted(glob.glob(name))  # noqa: PTH207
            if not matches:
                raise ShardError(f"no shards match {name!r}\nexpected .tar files: `flashvsr shards make` writes such")
            found |= dict.fromkeys(matches)
    if not found:
        raise ShardError("no shards are named\nexpected a path, glob, {000..007} pattern or URL")
    return list(found)


def _local(shard: str, cache: Path) -> Path:
    """The shard as a local file; a URL is fetched once, under a name of its own, whole or not at all."""
    if not shard.startswith(("http://", "https://")):
        return Path(shard)
    import fsspec

    path = cache / f"{hashlib.sha256(shard.encode()).hexdigest()[:_HEX]}-{shard.rsplit('/', 1)[-1].split('?')[0]}"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name, dir=cache)
    os.close(handle)
    try:
        fsspec.filesystem("http").get_file(shard, temporary)
        Path(temporary).replace(path)
    except OSError as error:
        raise ShardError(f"cannot fetch {shard}: {error}\ncheck the address and the network") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def usable(index: ShardIndex, crop: tuple[int, int]) -> tuple[list[Entry], list[Entry], list[str]]:
    """Videos and images large enough for a crop.

    Args:
        index: Of the shards.
        crop: Rows and columns.

    Returns:
        Videos, images, and one line for each kind of which some were left out (their number and an example).
    """
    fits = [entry for entry in index.entries if entry.height >= crop[0] and entry.width >= crop[1]]
    small = [entry for entry in index.entries if entry.height < crop[0] or entry.width < crop[1]]
    counts = Counter(entry.kind for entry in small)
    lines = []
    for kind, count in sorted(counts.items()):
        example = next(entry for entry in small if entry.kind == kind)
        size = f"{example.key} is {example.width}x{example.height}"
        lines.append(f"{count} samples ({kind}) are smaller than the crop of {crop[1]}x{crop[0]} and left out: {size}")
    videos = [entry for entry in fits if entry.kind == "video"]
    return videos, [entry for entry in fits if entry.kind == "image"], lines
