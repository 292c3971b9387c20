"""Training batches from shards at URLs: those of the same shards in a folder, whatever the server does."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from PIL import Image

from flashvsr.data import remote
from flashvsr.data.settings import LoaderOptions, RemoteOptions
from flashvsr.data.shard_writer import ShardRules, make_shards
from flashvsr.data.tar_samples import ShardError
from tests.data.shard_server import ShardServer
from tests.data.test_lit import after, batches, module, same

ECHO = {"echo": 2, "pool": 3, "images_per_batch": 1}


@pytest.fixture
def shards(sources, tmp_path):
    make_shards([sources], tmp_path / "shards", ShardRules(max_mib=0.02))
    return tmp_path / "shards"


@pytest.fixture
def server(shards, monkeypatch):
    """The shards at URLs."""
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.01)
    with ShardServer(shards) as server:
        yield server


@pytest.fixture
def urls(server, shards):
    return f"{server.url}/shard-{{00000..{len(list(shards.glob('*.tar'))) - 1:05d}}}.tar"


def equal(some, others):
    assert len(some) == len(others)
    return all(same(a, b) for a, b in zip(some, others, strict=True))


def streamed(urls, rank=0, world=1, remote=None, **options):
    """A data module of one of several processes, which ask for no more than what they read."""
    data = module(urls, **({} if remote is None else {"remote": RemoteOptions(**remote)}), **options)
    data._place = lambda: (rank, world)
    return data


def test_the_samples_and_their_order_are_those_of_a_folder(shards, urls):
    assert equal(batches(module(urls, **ECHO)), batches(module(shards, **ECHO)))


def test_workers_change_nothing_also_where_there_are_more_than_shards(shards, server):
    one = shards / "shard-00000.tar"
    options = {"images_per_batch": 1} if _photos(shards, one.name) else {}
    expected = batches(module(one, **options))
    for cached in (None, {"cache_dir": str(shards.parent / "cache")}):
        data = streamed(f"{server.url}/{one.name}", workers=3, remote=cached, **options)
        assert equal(batches(data), expected)
    assert server.requests[one.name] > 1


def _photos(shards, name):
    rows = json.loads((shards / "index.json").read_text())["shards"]
    return any(sample[1] == "webp" for row in rows if row["shard"] == name for sample in row["samples"])


def test_nothing_but_the_index_is_read_before_the_first_sample(server, urls):
    data = module(urls, val=urls)
    data.setup("fit")
    data.train_dataloader()
    assert set(server.requests) == {"index.json"}


def test_each_process_reads_only_its_samples(server, urls, shards):
    whole = batches(module(shards, batch_size=4, batches=3))
    read = []
    for rank in range(2):
        server.asked.clear()
        parts = batches(streamed(urls, rank, 2, batch_size=2, batches=3))
        assert all(same(part, _rows(batch, slice(rank, None, 2))) for part, batch in zip(parts, whole, strict=True))
        read.append([request for request in server.asked if request[0] != "index.json"])
    assert [len(requests) <= 6 for requests in read] == [True, True]  # a request a video; photographs are kept
    sizes = {path.name: path.stat().st_size for path in shards.glob("*.tar")}
    assert all(last - first < sizes[name] - 1024 for requests in read for name, first, last in requests)


def _rows(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def test_no_more_is_read_ahead_than_the_prefetch_of_the_workers(server, urls):
    data = module(urls, fraction=0.0, batches=50, workers=1, prefetch=2)
    taken = iter(data.train_dataloader())
    next(taken)
    assert 2 <= sum(server.requests.values()) - 1 <= 2 + 2 + 1  # a batch of two, two ahead, one that is being made
    assert sum(server.requests.values()) < 10


@pytest.mark.parametrize("done", [1, 5])
def test_a_run_goes_on_in_the_middle_of_an_epoch_from_a_folder_or_from_urls(shards, urls, done):
    data = module(shards, **ECHO)
    whole = [batch for _ in range(2) for batch in batches(data)]
    rest = after(done, urls, **ECHO)
    assert equal(rest, whole[done : done + len(rest)])
    moved = module(urls, **ECHO)
    moved.load_state_dict(data.state_dict())
    assert equal(batches(moved), batches(data))


def test_cut_connections_and_restarts_change_nothing(shards, server, urls, monkeypatch):
    def fault(name, number):
        if name == "index.json":
            return ("cut", 10) if number == 1 else None
        return (None, ("cut", 700), 503)[number % 3]

    server.fault = fault
    expected = batches(module(shards, **ECHO))
    assert equal(batches(module(urls, **ECHO)), expected)
    data = module(urls, **ECHO)
    steps = iter(data.train_dataloader())
    made = [data.on_after_batch_transfer(next(steps), 0) for _ in range(3)]
    server.stop()
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: server.start())
    assert equal([*made, *(data.on_after_batch_transfer(batch, 0) for batch in steps)], expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_fails_for_good_stops_the_training_and_is_never_left_out(shards, server, urls, workers):
    gone = sorted(shards.glob("*.tar"))[-1].name
    server.fault = lambda name, number: 403 if name == gone else None
    with pytest.raises(ShardError, match=rf"cannot read {server.url}/{gone}: .*403") as raised:
        batches(module(urls, batches=20, workers=workers))
    assert multiprocessing.active_children() == []  # also while the error is held
    assert len(str(raised.value).splitlines()) == 2  # what a worker said, without its traceback


def test_processes_that_share_a_folder_fetch_each_shard_once(shards, server, urls):
    cached = {"cache_dir": str(shards.parent / "cache")}
    expected = batches(module(shards, batch_size=4, batches=3))
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda rank: batches(streamed(urls, rank, 2, cached, batch_size=2, batches=3)), range(2))
    for rank, parts in enumerate(made):
        assert all(same(part, _rows(batch, slice(rank, None, 2))) for part, batch in zip(parts, expected, strict=True))
    assert max(count for name, count in server.requests.items() if name != "index.json") == 1


def test_in_order_of_shards_a_small_folder_fetches_each_shard_once(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(12):
        pixels = torch.randint(0, 256, (96, 96, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / "photos" / f"{number}.png")
    made = make_shards([tmp_path / "photos"], tmp_path / "shards", ShardRules(max_mib=0.035))
    room = 2.5 * max(shard.stat().st_size for shard in made) / 2**30
    assert len(made) >= 4
    fetched = []
    for at_once in (1, None):
        options = {"batch_size": 12, "batches": 1, "shards_at_once": at_once, "cache_mib": 0}
        cached = {"cache_dir": str(tmp_path / f"cache {at_once}"), "cache_gib": room}
        with ShardServer(tmp_path / "shards") as server:
            urls = [f"{server.url}/{shard.name}" for shard in made]
            assert equal(batches(streamed(urls, remote=cached, **options)), batches(module(made, **options)))
            fetched.append(sum(server.requests.values()) - 1)
    assert fetched[0] == len(made)
    assert fetched[1] > len(made)  # without an order, shards come and go


def test_where_to_keep_shards_is_a_setting_of_the_loader():
    assert LoaderOptions().remote.cache_dir is None
    for wrong in ({"tries": 0}, {"timeout": 0}, {"cache_gib": -1, "cache_dir": "x"}):
        with pytest.raises(ValueError, match="positive"):
            RemoteOptions(**wrong)
