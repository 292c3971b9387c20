"""The index of shards at URLs: what each one holds, so that a training begins without reading them."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from flashvsr.data.remote import base_name, filesystem, folders_of, is_remote, read_whole, retried
from flashvsr.data.settings import RemoteOptions
from flashvsr.data.tar_samples import BLOCK, Entry, ShardError, scan_tar

INDEX = "index.json"
_FORMAT = "flashvsr shard index 1"
_READ_AHEAD = 2**18  # bytes: a header and the metadata of a sample, without much of its picture


@dataclass(frozen=True)
class ShardContents:
    """What one shard holds.

    Attributes:
        size: Of the tar, in bytes.
        entries: The samples that can be used, in their order.
        problems: One line for each that cannot, and why.
    """

    size: int
    entries: list[Entry]
    problems: list[str]


def read_contents(shard: str, options: RemoteOptions) -> ShardContents:
    """Read the headers of one shard, over the network without most of its pictures where the server allows that.

    Raises:
        ShardError: If it cannot be read, or is no whole, uncompressed tar.
    """
    try:
        return retried(shard, lambda: _scan(shard, options), options) if is_remote(shard) else _scan(shard, options)
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"cannot read the shard {shard}: {error}\nexpected an uncompressed tar, whole") from error


def _scan(shard: str, options: RemoteOptions) -> ShardContents:
    if shard.startswith("pipe:"):
        from webdataset.gopen import gopen

        with gopen(shard) as stream:
            return _scan_stream(stream, shard)
    if not is_remote(shard):
        with Path(shard).open("rb") as file:
            return ShardContents(Path(shard).stat().st_size, *scan_tar(file, shard))
    files = filesystem(shard, options)
    with files.open(shard, "rb", block_size=_READ_AHEAD, cache_type="readahead") as file:
        if getattr(file, "size", None) is None:  # then it cannot seek either
            return _scan_stream(file, shard)
        try:
            return ShardContents(file.size, *scan_tar(file, shard))
        except ValueError as error:  # as fsspec says that the server gives no parts
            if "range requests" not in str(error):
                raise
    with files.open(shard, "rb", block_size=0) as file:
        return _scan_stream(file, shard)


def _scan_stream(file: Any, shard: str) -> ShardContents:
    counted = _Counted(file)
    entries, problems = scan_tar(counted, shard, stream=True)  # type: ignore[arg-type]  # a stream is only read
    while counted.read(_READ_AHEAD):
        pass
    return ShardContents(counted.size, entries, problems)


class _Counted:
    """A stream that counts its bytes."""

    def __init__(self, file: Any) -> None:
        self._file, self.size = file, 0

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(size)
        self.size += len(data)
        return data


def write_index(
    shards: Sequence[str | Path],
    target: str | Path,
    *,
    options: RemoteOptions = RemoteOptions(),
    threads: int = 16,
    overwrite: bool = False,
) -> Path:
    """Write what shards hold into one file; local shards are named without their folder, others by their URL.

    Args:
        shards: Paths and URLs of tars.
        target: File to write: `INDEX` beside the shards, or any other that ``RemoteOptions.index`` names.
        options: How long a server is tried.
        threads: Shards that are read at once.
        overwrite: Replace ``target``.

    Returns:
        ``target``.

    Raises:
        ShardError: If ``target`` exists, two local shards have one name, or a shard cannot be read.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise ShardError(f"{target} exists\nuse --overwrite to replace it, or name another file")
    names = [str(shard) if is_remote(str(shard)) else Path(shard).name for shard in shards]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ShardError(f"two shards are called {twice}\nmake an index for each folder")
    with ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda shard: read_contents(str(shard), options), shards))
    rows = [_row(name, contents) for name, contents in zip(names, found, strict=True)]
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    text = f'{{"format":"{_FORMAT}","shards":[\n{lines}\n]}}\n'
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _row(name: str, contents: ShardContents) -> dict[str, Any]:
    samples = [astuple(entry)[1:] for entry in contents.entries]  # all but the shard
    return {"shard": name, "bytes": contents.size, "samples": samples, "problems": contents.problems}


class IndexFiles:
    """What indexes say of shards: the one that is named, else `INDEX` in the folder of each shard.

    Args:
        options: Name the index; how long a server is tried.
    """

    def __init__(self, options: RemoteOptions) -> None:
        self._options = options
        self._read: dict[str, dict[str, Any]] = {}

    def contents(self, shard: str) -> ShardContents:
        """What a shard holds.

        Raises:
            ShardError: If there is no index, it is damaged, or it does not have the shard.
        """
        place = self._options.index
        if place is None and shard.startswith("pipe:"):
            raise ShardError(f"{shard} needs an index\n{_advice(shard)}, and name it as loader.remote.index")
        place = place or f"{folders_of([shard])[0]}/{INDEX}"
        if place not in self._read:
            self._read[place] = _rows(place, shard, self._options)
        rows = self._read[place]
        row = rows.get(shard) or rows.get(base_name(shard))
        if row is None:
            raise ShardError(f"{place} does not have {shard}\n{_advice(shard)}")
        try:
            entries = [_entry(shard, values) for values in row["samples"]]
            return ShardContents(int(row["bytes"]), entries, [str(line) for line in row["problems"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ShardError(f"{place} is damaged at {shard} ({error})\n{_advice(shard)}") from error


def _rows(place: str, shard: str, options: RemoteOptions) -> dict[str, Any]:
    """Rows of an index by the shard's name as written, and by its base name where that is no other's."""
    try:
        data = read_whole(place, options) if is_remote(place) else Path(place).read_bytes()
    except (ShardError, OSError) as error:
        missing = isinstance(error.__cause__ or error, FileNotFoundError)
        reason = f"no index at {place}" if missing else str(error).splitlines()[0]
        way = f"shards at URLs need an index: {_advice(shard)},\nput it there, or name it as loader.remote.index"
        raise ShardError(f"{reason}\n{way}") from error
    try:
        content = json.loads(data.decode("utf-8", "surrogateescape"))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {_FORMAT!r}")
        rows = {row["shard"]: row for row in content["shards"]}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ShardError(f"{place} is no index of shards ({error})\n{_advice(shard)}") from error
    names = [base_name(name) for name in rows]
    single = {name for name in set(names) if names.count(name) == 1} if len(set(names)) < len(names) else set(names)
    return {base_name(name): row for name, row in rows.items() if base_name(name) in single} | rows


def _entry(shard: str, values: list[Any]) -> Entry:
    key, ending, offset, size, width, height, frames, fps = values
    if not all(isinstance(value, int) for value in (offset, size, width, height, frames)):
        raise ValueError(f"{key}: expected whole numbers")
    if offset < BLOCK or min(size, width, height, frames) < 1:
        raise ValueError(f"{key}: numbers out of range")
    return Entry(shard, str(key), str(ending), offset, size, width, height, frames, None if fps is None else float(fps))


def _advice(shard: str) -> str:
    return f"`flashvsr shards index '{shard}' ... --out {INDEX}` makes one of all your shards"
