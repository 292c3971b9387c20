import sys
from types import SimpleNamespace

import pytest

from flashvsr.data import remote
from flashvsr.data.settings import RemoteOptions
from flashvsr.data.tar_samples import ShardError
from tests.data.shard_server import ShardServer

DATA = bytes(range(256)) * 40
QUICK = RemoteOptions(tries=4, timeout=0.3)


@pytest.fixture
def waits(monkeypatch):
    """The waits between tries, in place of waiting; parts are of 1000 bytes."""
    asked = []
    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=asked.append))
    monkeypatch.setattr(remote, "PART", 1000)
    return asked


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.tar").write_bytes(DATA)
    with ShardServer(tmp_path / "served") as server:
        yield server


def test_a_range_is_read_in_parts_and_nothing_else_is_sent(server, waits):
    assert remote.read_range(f"{server.url}/a.tar", 100, 2600, QUICK) == DATA[100:2600]
    assert server.asked == [("a.tar", 100, 1099), ("a.tar", 1100, 2099), ("a.tar", 2100, 2599)]
    assert server.sent == 2500


def test_a_cut_connection_costs_one_part(server, waits):
    server.fault = lambda name, number: ("cut", 300) if number == 2 else None
    assert remote.read_range(f"{server.url}/a.tar", 0, 3000, QUICK) == DATA[:3000]
    assert server.sent == 3300
    assert len(waits) == 1


def test_a_server_that_stalls_is_asked_again(server, waits):
    server.fault = lambda name, number: ("stall", 1.5) if number == 1 else None
    assert remote.read_range(f"{server.url}/a.tar", 0, 500, QUICK) == DATA[:500]
    assert server.requests["a.tar"] == 2


def test_a_server_that_is_restarted_is_waited_for(server, waits, monkeypatch):
    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            server.start()

    monkeypatch.setattr(remote, "time", SimpleNamespace(sleep=sleep))
    assert remote.read_range(f"{server.url}/a.tar", 0, 10, QUICK) == DATA[:10]
    server.stop()
    assert remote.read_range(f"{server.url}/a.tar", 10, 20, QUICK) == DATA[10:20]
    assert len(waits) == 2


@pytest.mark.parametrize(("status", "requests"), [(503, 4), (429, 4), (403, 1), (404, 1)])
def test_what_fails_for_good_is_an_error_that_names_url_and_reason(server, waits, status, requests):
    server.fault = lambda name, number: status
    with pytest.raises(ShardError, match=rf"cannot read {server.url}/a\.tar: .*(404|{status}|a\.tar)") as raised:
        remote.read_range(f"{server.url}/a.tar", 0, 10, QUICK)
    assert server.requests["a.tar"] == requests
    assert ("once" if requests == 1 else "4 times") in str(raised.value)


def test_waits_grow_and_have_an_end(server, waits):
    server.fault = lambda name, number: 503
    with pytest.raises(ShardError):
        remote.read_range(f"{server.url}/a.tar", 0, 10, RemoteOptions(tries=10))
    assert all(2**n * 0.25 <= wait <= 2**n * 0.75 for n, wait in enumerate(waits[:6]))
    assert max(waits) <= 1.5 * remote.LONGEST_WAIT


def test_a_file_that_is_shorter_than_asked_is_an_error(server, waits):
    with pytest.raises(ShardError, match=f"ends at byte {len(DATA)}"):
        remote.read_range(f"{server.url}/a.tar", len(DATA) - 10, len(DATA) + 10, QUICK)


def test_a_server_of_whole_files_is_told_apart(server, waits):
    server.ranges = False
    with pytest.raises(ShardError, match=r"whole files only\nset loader\.remote\.cache_dir"):
        remote.read_range(f"{server.url}/a.tar", 0, 10, QUICK)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_fetch_that_is_cut_goes_on_there_or_begins_again_and_is_whole(server, waits, tmp_path, ranges):
    server.ranges = ranges
    server.fault = lambda name, number: ("cut", 6000) if number == 1 else None
    target = tmp_path / "target"
    target.touch()
    remote.fetch(f"{server.url}/a.tar", target, QUICK)
    assert target.read_bytes() == DATA
    assert (server.sent == len(DATA)) == ranges


def test_what_a_command_writes_is_fetched_and_its_failure_is_an_error(waits, tmp_path):
    (tmp_path / "a").write_bytes(DATA)
    (tmp_path / "b").touch()
    remote.fetch(f"pipe:cat {tmp_path}/a", tmp_path / "b", QUICK)
    assert (tmp_path / "b").read_bytes() == DATA
    with pytest.raises(ShardError, match="cannot read pipe:false"):
        remote.fetch("pipe:false", tmp_path / "b", QUICK)


@pytest.mark.parametrize(("protocol", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub")])
def test_a_package_that_a_protocol_needs_is_named(monkeypatch, protocol, package):
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, protocol, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ShardError, match=f"{protocol}:// needs a package that is not installed\npip install {package}"):
        remote.filesystem(f"{protocol}://bucket/a.tar", QUICK)
