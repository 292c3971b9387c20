"""Shards at s3://, gs:// and hf://, in a bucket of memory under each name."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem

from flashvsr.data import remote
from flashvsr.data.settings import RemoteOptions
from flashvsr.data.shard_index import write_index
from flashvsr.data.shards import ShardIndex
from flashvsr.data.tar_samples import ShardError
from tests.data.test_shards import GOOD, write_tar

PROTOCOLS = ("s3", "gs", "hf")
FILES = {"x.mp4": b"video" * 300, "x.json": GOOD, "y.mp4": b"other" * 500, "y.json": GOOD}


class Denied(Exception):
    """As the libraries of clouds say no: the status is that of an answer, not of the error."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.response = type("Response", (), {"status_code": status})


class Bucket(AbstractFileSystem):
    """Files in memory; counts what is asked for."""

    cachable = False
    files: dict[str, bytes]
    asked: list[tuple[str, int | None, int | None]]
    faults: list[Exception]

    def ls(self, path, detail=True, **unused):
        names = [name for name in self.files if name.startswith(self._strip_protocol(path).rstrip("/"))]
        return [{"name": name, "size": len(self.files[name]), "type": "file"} if detail else name for name in names]

    def cat_file(self, path, start=None, end=None, **unused):
        name = self._strip_protocol(path)
        self.asked.append((name.rpartition("/")[2], start, end))
        if self.faults:
            raise self.faults.pop(0)
        if name not in self.files:
            raise FileNotFoundError(path)
        return self.files[name][start:end]

    def _open(self, path, mode="rb", **unused):
        return io.BytesIO(self.cat_file(path))


@pytest.fixture(params=PROTOCOLS)
def bucket(request, tmp_path, monkeypatch):
    """Three shards and their index in a bucket of a protocol, and the same in a folder."""
    for number in range(3):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}{name}": data for name, data in FILES.items()})
    write_index(sorted(tmp_path.glob("*.tar")), tmp_path / "index.json")
    files = {f"bucket/data/{path.name}": path.read_bytes() for path in tmp_path.iterdir()}
    kept = type("Bucket", (Bucket,), {"protocol": request.param, "files": files, "asked": [], "faults": []})
    monkeypatch.setitem(_registry, request.param, kept)
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    return kept


def test_samples_of_a_bucket_are_those_of_the_folder_and_only_they_are_asked_for(bucket, tmp_path):
    local = ShardIndex(tmp_path)
    for shards in (f"{bucket.protocol}://bucket/data/s-{{0..2}}.tar", f"{bucket.protocol}://bucket/data/s-*.tar"):
        bucket.asked.clear()
        there = ShardIndex(shards)
        assert bucket.asked == [("index.json", None, None)]
        assert [there.read(entry) for entry in there.entries] == [local.read(entry) for entry in local.entries]
        assert bucket.asked[1:] == [
            (entry.shard.rpartition("/")[2], entry.offset - 512, entry.offset + entry.size) for entry in there.entries
        ]


def test_a_folder_of_whole_shards_fetches_each_of_a_bucket_once(bucket, tmp_path):
    options = RemoteOptions(cache_dir=str(tmp_path / "cache"))
    there = ShardIndex(f"{bucket.protocol}://bucket/data/s-{{0..2}}.tar", options)
    for _ in range(2):
        assert [there.read(entry) for entry in there.entries] == [
            ShardIndex(tmp_path).read(entry) for entry in ShardIndex(tmp_path).entries
        ]
    assert Counter(name for name, _, _ in bucket.asked) == dict.fromkeys(
        ("index.json", "s-0.tar", "s-1.tar", "s-2.tar"), 1
    )


@pytest.mark.parametrize(
    ("fault", "tries"),
    [
        (PermissionError("forbidden"), 1),
        (FileNotFoundError("no such bucket"), 1),
        (Denied(401), 1),
        (Denied(503), 3),
        (OSError("connection reset"), 3),
    ],
)
def test_a_refusal_of_a_bucket_is_told_at_once_and_what_may_pass_is_tried_again(bucket, fault, tries):
    url = f"{bucket.protocol}://bucket/data/s-0.tar"
    bucket.faults.extend([fault] * 3)
    with pytest.raises(ShardError, match=f"cannot read {url}: {type(fault).__name__}: .*tried") as raised:
        remote.read_range(url, 0, 100, RemoteOptions(tries=3))
    assert len(bucket.asked) == tries
    assert len(str(raised.value).splitlines()) == 2
    bucket.faults[:] = [OSError("connection reset")]
    assert remote.read_range(url, 0, 100, RemoteOptions(tries=3)) == bucket.files["bucket/data/s-0.tar"][:100]


@pytest.fixture
def s3(tmp_path, monkeypatch):
    """A client of a local server that speaks S3; the environment sends everything for S3 to it."""
    missing = "needs s3fs and moto[s3,server]: shards were not read with S3's own protocol"
    pytest.importorskip("s3fs", reason=missing)
    moto = pytest.importorskip("moto.server", reason=missing)
    import boto3

    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    said = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    said |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    server.stop()


def test_shards_are_read_from_a_server_that_speaks_s3(s3, tmp_path):
    for number in range(2):
        write_tar(tmp_path / f"s-{number}.tar", {f"{number}{name}": data for name, data in FILES.items()})
    write_index(sorted(tmp_path.glob("*.tar")), tmp_path / "index.json")
    for path in tmp_path.iterdir():
        s3.upload_file(str(path), "bucket", f"data/{path.name}")
    local = ShardIndex(tmp_path)
    for shards, cache in (("s-{0..1}.tar", None), ("s-*.tar", None), ("", str(tmp_path / "cache"))):
        there = ShardIndex(f"s3://bucket/data/{shards}", RemoteOptions(cache_dir=cache))
        assert [there.read(entry) for entry in there.entries] == [local.read(entry) for entry in local.entries]
    with pytest.raises(
        ShardError, match=r"cannot read s3://bucket/data/gone\.tar: FileNotFoundError: .* \(tried once\)"
    ):
        remote.read_range("s3://bucket/data/gone.tar", 0, 10, RemoteOptions())
