"""Which samples lie in which shards: an index of WebDataset tars, read by position."""

from __future__ import annotations

import glob
import mmap
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashvsr.data.remote import filesystem, find, is_remote, read_range
from flashvsr.data.sampling import ShardOrder
from flashvsr.data.settings import PhotoOptions, RemoteOptions
from flashvsr.data.shard_cache import ShardCache
from flashvsr.data.shard_index import IndexFiles, read_contents
from flashvsr.data.tar_samples import BLOCK, Entry, ShardError


class ShardIndex:
    """All samples of some shards, in a fixed order, and their bytes.

    Pictures are read by position when asked for, so the order of samples is free and any process may read any of them:
    ranks and workers need no shards of their own. Nothing is unpickled; members other than pictures and json are passed
    over.

    * Of local tars the headers are read once, pictures through a memory map.
    * Of tars at URLs an index tells what they hold (`write_index`, ``flashvsr shards index``), so that nothing of them
      is read at the start. Each picture is one request for its bytes; with ``remote.cache_dir`` the first picture
      of a shard fetches the whole shard into that folder, once for all processes of a host. Entries and bytes are
      those of the same tars in a local folder.

    A sample is one picture and one ``.json`` (an object with ``width``, ``height``, for videos ``frames``, and
    ``fps`` if known) that share a key. A sample that lacks one of them is left out and named in ``problems``.

    Args:
        shards: Paths, globs, brace patterns (``"train-{000..127}.tar"``), URLs (https, s3, gs, hf and others of fsspec)
            or ``pipe:`` and a command that writes a tar; a folder stands for all ``*.tar`` in it.
        remote: How shards at URLs are read.

    Attributes:
        shards: The tars found.
        entries: The samples that can be used.
        problems: One line for each sample or shard that cannot, and why.

    Raises:
        ShardError: If a pattern matches nothing, a tar cannot be read, a package for a protocol is missing, or shards
            at URLs have no index.
    """

    shards: list[str]
    entries: list[Entry]
    problems: list[str]

    def __init__(self, shards: str | Path | Sequence[str | Path], remote: RemoteOptions = RemoteOptions()) -> None:
        self._remote = remote
        self._cache = None if remote.cache_dir is None else ShardCache(remote.cache_dir, remote)
        self._maps: dict[str, mmap.mmap] = {}
        self._sizes: dict[str, int] = {}  # of the shards at URLs
        self.shards = expand_shards([shards] if isinstance(shards, str | Path) else shards, remote)
        self.entries, self.problems = [], []
        indexes = IndexFiles(remote)
        for shard in self.shards:
            if is_remote(shard):
                if shard.startswith("pipe:") and self._cache is None:
                    raise ShardError(
                        f"{shard!r} is read as a whole\nset loader.remote.cache_dir, where shards are kept"
                    )
                contents = indexes.contents(shard)
                self._sizes[shard] = contents.size
            else:
                contents = read_contents(shard, remote)
            self.entries += contents.entries
            self.problems += [f"{shard}: {line}" for line in contents.problems]

    def read(self, entry: Entry) -> bytes:
        """The bytes of a sample's picture.

        Raises:
            ShardError: If a shard at a URL cannot be read, or is not what its index says.
        """
        if entry.shard in self._sizes:
            return self._read_remote(entry)
        if entry.shard not in self._maps:
            with Path(entry.shard).open("rb") as file:
                self._maps[entry.shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[entry.shard][entry.offset : entry.offset + entry.size]

    def _read_remote(self, entry: Entry) -> bytes:
        """A picture, checked by the header before it."""
        place = (entry.offset - BLOCK, entry.offset + entry.size)
        if self._cache is not None:
            data = self._cache.read(entry.shard, self._sizes[entry.shard], *place)
        else:
            data = read_range(entry.shard, *place, self._remote)
        try:
            size = tarfile.TarInfo.frombuf(data[:BLOCK], "utf-8", "surrogateescape").size
        except tarfile.HeaderError:
            size = None
        if size != entry.size:
            raise ShardError(
                f"{entry.shard} does not hold {entry.key} where its index says: it was written anew since\n"
                "`flashvsr shards index` makes the index anew"
            )
        return data[BLOCK:]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # each process maps the files itself


def expand_shards(patterns: Sequence[str | Path], remote: RemoteOptions = RemoteOptions()) -> list[str]:
    """Names of the tars that paths, folders, globs, brace patterns and URLs stand for, in order, each once.

    Args:
        patterns: What to expand.
        remote: How servers are asked: for URLs with ``*``, and for those that end with ``/``, which stand for all
            ``*.tar`` there.

    Raises:
        ShardError: For protocols that cannot be read, for no pattern, and for one that matches nothing.
    """
    from webdataset.shardlists import expand_urls

    found: dict[str, None] = {}
    for pattern in map(str, patterns):
        for name in expand_urls(pattern):
            matches = _remote_matches(name, remote) if is_remote(name) else _local_matches(name)
            if not matches:
                raise ShardError(f"no shards match {name!r}\nexpected .tar files: `flashvsr shards make` writes such")
            found |= dict.fromkeys(matches)
    if not found:
        raise ShardError("no shards are named\nexpected a path, glob, {000..007} pattern or URL")
    return list(found)


def _local_matches(name: str) -> list[str]:
    path = Path(name)
    return sorted(map(str, path.glob("*.tar"))) if path.is_dir() else sorted(glob.glob(name))  # noqa: PTH207


def _remote_matches(name: str, remote: RemoteOptions) -> list[str]:
    if name.startswith("file:"):
        raise ShardError(f"shards {name!r} are refused\nwrite the path of local files without file://")
    if name.startswith("pipe:"):
        return [name]
    filesystem(name, remote)  # refuses what cannot be read, before anything is
    name = f"{name}*.tar" if name.endswith("/") else name
    return find(name, remote) if "*" in name else [name]


@dataclass(frozen=True)
class UsableSamples:
    """Samples of some shards that are large enough for a crop.

    Attributes:
        index: Of the shards.
        videos: Those that can be used.
        photos: The same.
        lines: One for each kind of which some were left out: their number and an example.
    """

    index: ShardIndex
    videos: list[Entry]
    photos: list[Entry]
    lines: list[str]

    def photo_fraction(self, asked: PhotoOptions) -> float:
        """Fraction of the clips that are made from photographs.

        Raises:
            ShardError: If there are no videos or no photographs where some are asked for.
        """
        videos, photos, images = len(self.videos), len(self.photos), asked.images_per_batch
        fraction = photos / (videos + photos) if asked.fraction is None else asked.fraction
        if (fraction < 1 and not videos) or ((fraction > 0 or images) and not photos):
            raise ShardError(
                f"data.photos: fraction={fraction:g} and images_per_batch={images} ask for what the shards lack: they"
                f" hold {videos} videos and {photos} photographs\n"
                "give data.train shards that hold both, or set data.photos.fraction and data.photos.images_per_batch"
            )
        return fraction

    def order(self, at_once: int | None) -> ShardOrder | None:
        """The order in which a run reads them with so many shards mixed; None where all are."""
        if at_once is None:
            return None
        numbers = {shard: number for number, shard in enumerate(self.index.shards)}
        shards = [[numbers[entry.shard] for entry in entries] for entries in (self.videos, self.photos)]
        return ShardOrder(shards, len(numbers), at_once)


def usable(index: ShardIndex, crop: tuple[int, int]) -> UsableSamples:
    """Videos and photographs large enough for a crop, rows and columns."""
    fits = [entry for entry in index.entries if entry.height >= crop[0] and entry.width >= crop[1]]
    small = [entry for entry in index.entries if entry.height < crop[0] or entry.width < crop[1]]
    counts = Counter(entry.kind for entry in small)
    lines = []
    for kind, count in sorted(counts.items()):
        example = next(entry for entry in small if entry.kind == kind)
        size = f"{example.key} is {example.width}x{example.height}"
        lines.append(f"{count} samples ({kind}) are smaller than the crop of {crop[1]}x{crop[0]} and left out: {size}")
    videos = [entry for entry in fits if entry.kind == "video"]
    return UsableSamples(index, videos, [entry for entry in fits if entry.kind == "image"], lines)
