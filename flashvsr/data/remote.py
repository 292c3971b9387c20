"""Bytes of files at URLs, by fsspec: parts of them, with patience for servers that are slow, cut off or restarted."""

from __future__ import annotations

import errno
import logging
import random
import re
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flashvsr.data.settings import RemoteOptions
from flashvsr.data.tar_samples import ShardError

PART = 16 * 2**20
"""Most bytes asked for at once: what a cut connection costs."""

FIRST_WAIT = 0.5
"""Seconds before the second try; each further wait is twice as long, up to `LONGEST_WAIT`."""
LONGEST_WAIT = 30.0

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
_PROTOCOL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_TEMPORARY = (408, 425, 429)  # of the HTTP statuses 400 to 499: time-out, too early, too many requests
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_log = logging.getLogger(__name__)
_Made = TypeVar("_Made")


def is_remote(name: str) -> bool:
    """Whether shards of this name are at a URL or come from a command, and are no local files."""
    return name.startswith("pipe:") or _PROTOCOL.match(name) is not None


def filesystem(url: str, options: RemoteOptions) -> Any:
    """The fsspec filesystem of a URL.

    Raises:
        ShardError: For a protocol that is unknown or whose package is not installed; says which.
    """
    import fsspec

    match = _PROTOCOL.match(url)
    protocol = match[1].lower() if match else ""
    settings: dict[str, Any] = {}
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        patience = ClientTimeout(total=None, sock_connect=options.timeout, sock_read=options.timeout)
        settings["client_kwargs"] = {"timeout": patience}
    try:
        return fsspec.filesystem(protocol, **settings)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        way = f"pip install {package}" if package else str(error)
        raise ShardError(f"{url}: {protocol}:// needs a package that is not installed\n{way}") from error
    except ValueError as error:
        raise ShardError(f"{url}: unknown protocol {protocol!r}\nexpected https, s3, gs, hf or pipe:") from error


def read_range(url: str, start: int, end: int, options: RemoteOptions) -> bytes:
    """Bytes ``start`` to ``end`` of a file; a cut connection costs the part of `PART` bytes that was under way.

    Raises:
        ShardError: When it cannot be read for good, or the server does not give parts of files.
    """
    places = [(first, min(first + PART, end)) for first in range(start, end, PART)]
    return b"".join(retried(url, partial(_part, url, *place, options), options) for place in places)


def read_whole(url: str, options: RemoteOptions) -> bytes:
    """All bytes of a file.

    Raises:
        ShardError: When it cannot be read for good.
    """
    return retried(url, lambda: filesystem(url, options).cat_file(url), options)


def fetch(url: str, path: Path, options: RemoteOptions) -> None:
    """Write a whole file over an empty one; goes on where it was cut, or anew if the server gives no parts.

    Args:
        url: Of the file, or ``pipe:`` and a shell command that writes it.
        path: An empty file. After an error it holds a part.
        options: How long it is tried.

    Raises:
        ShardError: When it cannot be read for good.
    """

    def attempt() -> None:
        if url.startswith("pipe:"):
            _run_command(url, path)
        elif path.stat().st_size and url.startswith("http"):
            _go_on(url, path, options)
        else:  # other filesystems may write their parts in any order
            filesystem(url, options).get_file(url, str(path))

    retried(url, attempt, options)


def find(pattern: str, options: RemoteOptions) -> list[str]:
    """URLs that a pattern with ``*`` matches, sorted.

    Raises:
        ShardError: When the folder cannot be listed for good.
    """
    files = filesystem(pattern, options)
    return sorted(retried(pattern, lambda: [files.unstrip_protocol(name) for name in files.glob(pattern)], options))


def retried(url: str, attempt: Callable[[], _Made], options: RemoteOptions) -> _Made:
    """What an attempt returns, which is made again after errors that may pass, with growing waits between.

    Raises:
        ShardError: After the last try, or at once for an error that will not pass; names the URL and the reason.
    """
    tried, wait = 1, FIRST_WAIT
    while True:
        try:
            return attempt()
        except ShardError:
            raise
        except Exception as error:  # each filesystem has errors of its own
            reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
            if tried >= options.tries or _is_final(error):
                times = "once" if tried == 1 else f"{tried} times"
                raise ShardError(
                    f"cannot read {url}: {reason} (tried {times})\ncheck the address, your rights and the network"
                ) from error
            _log.warning("%s: %s; trying again (%d of %d)", url, reason, tried + 1, options.tries)
        # the numbers of the training are not touched
        time.sleep(wait * random.SystemRandom().uniform(0.5, 1.5))
        tried, wait = tried + 1, min(2 * wait, LONGEST_WAIT)


def _is_final(error: Exception) -> bool:
    status = _status(error)
    if status is not None and 400 <= status < 500:
        return status not in _TEMPORARY
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return isinstance(error, FileNotFoundError | PermissionError | ImportError | ValueError | TypeError)


def _status(error: Exception) -> int | None:
    """The HTTP status of an error of aiohttp, of Google's package, or of Hugging Face's; None when it has none."""
    for source, name in ((error, "status"), (error, "code"), (getattr(error, "response", None), "status_code")):
        if isinstance(status := getattr(source, name, None), int):
            return status
    return None


def _part(url: str, first: int, last: int, options: RemoteOptions) -> bytes:
    data = filesystem(url, options).cat_file(url, start=first, end=last)
    if len(data) > last - first:
        raise ShardError(
            f"{url}: the server gives whole files only\nset loader.remote.cache_dir: whole shards are kept there"
        )
    if len(data) < last - first:
        raise OSError(f"ends at byte {first + len(data)}, expected {last}")
    return data


def _go_on(url: str, path: Path, options: RemoteOptions) -> None:
    """Append what is missing of a file."""
    files = filesystem(url, options)
    size = files.size(url)
    with path.open("ab") as file:
        while size is not None and file.tell() < size:
            first, last = file.tell(), min(file.tell() + PART, size)
            data = files.cat_file(url, start=first, end=last)
            if len(data) > last - first:
                break
            file.write(data)
            file.flush()
        if size is None or file.tell() != size:
            file.truncate(0)
            raise OSError("was cut off, and the server gives whole files only")


def _run_command(url: str, path: Path) -> None:
    from webdataset.gopen import gopen

    with path.open("wb") as file, gopen(url) as stream:
        shutil.copyfileobj(stream, file)


def folders_of(urls: Sequence[str]) -> list[str]:
    """The folders that files at URLs lie in, without queries, each once."""
    return list(dict.fromkeys(url.partition("?")[0].rpartition("/")[0] for url in urls))


def base_name(url: str) -> str:
    """Name of a file in its folder, without the query of its URL; a command stays whole."""
    return url if url.startswith("pipe:") else url.partition("?")[0].rpartition("/")[2]
