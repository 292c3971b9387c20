import json
import os
from dataclasses import replace

import fsspec
import pytest

from flashvsr.cli import main
from flashvsr.data.settings import RemoteOptions
from flashvsr.data.shard_index import INDEX, write_index
from flashvsr.data.shards import ShardIndex
from flashvsr.data.tar_samples import ShardError
from tests.data.shard_server import ShardServer
from tests.data.test_shards import GOOD, write_tar

QUICK = RemoteOptions(tries=1)


@pytest.fixture
def served(tmp_path):
    """Two shards of three samples and one problem."""
    folder = tmp_path / "served"
    folder.mkdir()
    sample = {"x.json": GOOD, "x.mp4": os.urandom(2**20)}
    write_tar(folder / "s-0.tar", sample | {"y.json": GOOD, "y.mp4": os.urandom(2**20), "z.jpg": b"no json"})
    write_tar(folder / "s-1.tar", {"w.mp4": b"video", "w.json": GOOD})
    return folder


@pytest.fixture
def server(served):
    with ShardServer(served) as server:
        yield server


def contents(index):
    """What an index says, without the places of the shards, and the bytes."""
    entries = [replace(entry, shard=entry.shard.rpartition("/")[2]) for entry in index.entries]
    problems = [line.rpartition("/")[2] for line in index.problems]
    return entries, problems, [index.read(entry) for entry in index.entries]


def test_shards_at_urls_are_what_they_are_in_a_folder_and_only_the_index_is_read_at_the_start(served, server):
    write_index(sorted(served.glob("*.tar")), served / INDEX)
    index = ShardIndex(f"{server.url}/s-{{0..1}}.tar", QUICK)
    assert server.requests == {INDEX: 1}
    assert len(index.problems) == 1
    assert contents(index) == contents(ShardIndex(served))
    assert sum(server.requests.values()) == 1 + 3  # one request for each sample


@pytest.mark.parametrize("kind", ["ranges", "whole files", "pipe", "memory"])
def test_an_index_made_over_the_network_is_the_one_made_of_the_folder(served, server, tmp_path, kind):
    here, there = served / INDEX, tmp_path / "made.json"
    write_index(sorted(served.glob("*.tar")), here)
    server.ranges = kind != "whole files"
    places = {"pipe": f"pipe:cat {served}", "memory": "memory://made"}
    shards = [f"{places.get(kind, server.url)}/s-{number}.tar" for number in range(2)]
    if kind == "memory":
        for shard in shards:
            fsspec.filesystem("memory").pipe(shard, (served / shard.rpartition("/")[2]).read_bytes())
    write_index(shards, there, options=QUICK)
    made, expected = (json.loads(path.read_text())["shards"] for path in (there, here))
    assert [row.pop("shard") for row in made] == shards
    assert [row.pop("shard") for row in expected] == ["s-0.tar", "s-1.tar"]
    assert made == expected
    if kind == "ranges":
        assert server.sent < 1.5 * 2**20  # of more than 2 MiB: most of the pictures are passed over
    remote = replace(QUICK, index=str(there), cache_dir=str(tmp_path / "cache"))
    assert contents(ShardIndex(shards, remote)) == contents(ShardIndex(served))


def test_globs_and_folders_work_where_a_filesystem_can_list(served, tmp_path):
    files = fsspec.filesystem("memory")
    for path in served.glob("*.tar"):
        files.pipe(f"memory://listed/{path.name}", path.read_bytes())
    files.pipe(f"memory://listed/{INDEX}", write_index(sorted(served.glob("*.tar")), served / INDEX).read_bytes())
    for pattern in ("memory://listed/s-*.tar", "memory://listed/"):
        assert contents(ShardIndex(pattern, QUICK)) == contents(ShardIndex(served))
    with pytest.raises(ShardError, match="no shards match"):
        ShardIndex("memory://listed/t-*.tar", QUICK)


def test_shards_at_urls_without_an_index_are_refused_with_the_command_that_makes_one(served, server):
    with pytest.raises(ShardError, match=rf"no index at {server.url}/index.json\n.*flashvsr shards index"):
        ShardIndex(f"{server.url}/s-0.tar", QUICK)
    write_index([served / "s-1.tar"], served / INDEX)
    with pytest.raises(ShardError, match=r"index\.json does not have .*s-0\.tar"):
        ShardIndex(f"{server.url}/s-0.tar", QUICK)
    assert set(server.requests) == {INDEX}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:40],
        lambda text: text.replace("index 1", "index 2"),
        lambda text: text.replace('"mp4",', '"mp4",-'),
        lambda text: text.replace('"mp4",', ""),
        lambda text: "[]",
    ],
)
def test_a_damaged_index_is_an_error(served, server, spoil):
    path = write_index(sorted(served.glob("*.tar")), served / INDEX)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(ShardError, match=r"index.json is (damaged|no index)"):
        ShardIndex(f"{server.url}/s-0.tar", QUICK)


@pytest.mark.parametrize("cached", [False, True])
def test_a_shard_that_was_written_anew_since_its_index_is_an_error(served, server, tmp_path, cached):
    write_index(sorted(served.glob("*.tar")), served / INDEX)
    remote = replace(QUICK, cache_dir=str(tmp_path / "cache") if cached else None)
    index = ShardIndex(f"{server.url}/s-0.tar", remote)
    write_tar(served / "s-0.tar", {"more.jpg": b"m" * 600, "x.json": GOOD, "x.mp4": os.urandom(2**20)})
    with pytest.raises(ShardError, match=r"s-0\.tar (does not hold x where its index says|has \d+ bytes)"):
        index.read(index.entries[0])


def test_the_command_indexes_a_folder_and_urls_and_replaces_nothing_unasked(served, server, tmp_path, capsys):
    assert main(["shards", "index", str(served)]) == 0
    assert f"{served / INDEX}: index of 2 shards" in capsys.readouterr().out
    assert main(["shards", "index", str(served)]) == 1
    assert "use --overwrite" in capsys.readouterr().err
    assert main(["shards", "index", str(served), "--overwrite"]) == 0
    assert main(["shards", "index", f"{server.url}/s-0.tar"]) == 1
    assert "--out index.json" in capsys.readouterr().err
    assert main(["shards", "show", f"{server.url}/s-{{0..1}}.tar"]) == 1  # a sample without json
    assert "video: 3, 2.0 MiB, 0.667 MiB each" in capsys.readouterr().out
