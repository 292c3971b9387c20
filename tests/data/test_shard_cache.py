import fcntl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from flashvsr.data.settings import RemoteOptions
from flashvsr.data.shard_cache import ShardCache
from flashvsr.data.tar_samples import ShardError
from tests.data.shard_server import ShardServer

SIZE = 2**20


@pytest.fixture
def server(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    for number, name in enumerate("abc"):
        (served / f"{name}.tar").write_bytes(bytes([number]) * SIZE)
    with ShardServer(served) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def cache(folder, mib=None, **options):
    """Of a number of MiB, with quick errors."""
    limit = None if mib is None else mib / 1024
    options = RemoteOptions(cache_dir=str(folder), cache_gib=limit, **{"tries": 1} | options)
    return ShardCache(folder, options)


def test_all_who_need_a_shard_at_once_fetch_it_once(server, folder):
    server.fault = lambda name, number: ("stall", 0.1)
    caches = [cache(folder) for _ in range(6)]  # each opens and locks files of its own, as processes do
    with ThreadPoolExecutor(6) as pool:
        read = list(pool.map(lambda one: one.read(f"{server.url}/b.tar", SIZE, 5, 8), caches))
    assert read == [b"\1\1\1"] * 6
    assert server.requests["b.tar"] == 1
    assert [path.stat().st_size for path in folder.iterdir()] == [SIZE]


def test_what_a_killed_process_left_is_not_taken_for_a_shard(server, folder):
    url = f"{server.url}/b.tar"
    code = f"""
import os
from flashvsr.data import shard_cache
from flashvsr.data.settings import RemoteOptions
def fetch(url, path, options):
    path.write_bytes(b"half")
    os._exit(1)
shard_cache.fetch = fetch
shard_cache.ShardCache({str(folder)!r}, RemoteOptions()).read({url!r}, {SIZE}, 0, 1)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1
    assert [path.read_bytes() for path in folder.iterdir()] == [b"half"]
    assert cache(folder).read(url, SIZE, 0, SIZE) == b"\1" * SIZE
    assert [path.stat().st_size for path in folder.iterdir()] == [SIZE]


def test_a_fetch_that_fails_leaves_nothing_and_the_next_one_works(server, folder):
    server.fault = lambda name, number: ("cut", 100) if number == 1 else None
    with pytest.raises(ShardError, match=r"cannot read .*b\.tar"):
        cache(folder).read(f"{server.url}/b.tar", SIZE, 0, 1)
    assert list(folder.iterdir()) == []
    assert cache(folder).read(f"{server.url}/b.tar", SIZE, 0, 1) == b"\1"


def test_a_shard_of_another_size_than_its_index_says_is_an_error(server, folder):
    with pytest.raises(ShardError, match=f"has {SIZE} bytes, its index says 5"):
        cache(folder).read(f"{server.url}/b.tar", 5, 0, 1)
    assert list(folder.iterdir()) == []


def test_the_shard_that_was_not_used_for_longest_makes_room(server, folder):
    small = cache(folder, mib=2.5)
    (folder / "mine.tar").write_bytes(b"kept" * SIZE)
    for name in "abac":
        assert small.read(f"{server.url}/{name}.tar", SIZE, 0, 1) == bytes(["abc".index(name)])
    left = {path.name[17:] for path in folder.iterdir() if path.name != "mine.tar"}
    assert left == {"a.tar", "c.tar"}
    assert (folder / "mine.tar").exists()
    assert small.read(f"{server.url}/b.tar", SIZE, 0, 1) == b"\1"  # comes again when it is needed
    assert server.requests == {"a.tar": 1, "b.tar": 2, "c.tar": 1}


def test_half_shards_make_room_unless_they_are_being_fetched(server, folder):
    abandoned, fetched = (folder / f".{digit * 16}-x.tar.part" for digit in "01")
    for path in (abandoned, fetched):
        path.write_bytes(b"half")
    with fetched.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cache(folder, mib=2).read(f"{server.url}/a.tar", SIZE, 0, 1)
        assert not abandoned.exists()
        assert fetched.exists()


def test_a_shard_larger_than_the_folder_may_be_is_refused(server, folder):
    with pytest.raises(ShardError, match="more than cache_gib"):
        cache(folder, mib=0.5).read(f"{server.url}/a.tar", SIZE, 0, 1)
    with pytest.raises(ValueError, match="without a cache_dir"):
        RemoteOptions(cache_gib=1)
