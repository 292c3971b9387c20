import io
import json
import pickle
import tarfile

import pytest

from flashvsr.data.shards import ShardIndex, expand_shards, usable
from flashvsr.data.tar_samples import ShardError


def write_tar(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


GOOD = json.dumps({"width": 64, "height": 48, "frames": 9, "fps": 25}).encode()


def test_bytes_come_back_as_they_were_written(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"x.mp4": b"video" * 300, "x.json": GOOD, "y.json": GOOD, "y.jpg": b"image"})
    index = ShardIndex(path)
    assert [(entry.key, entry.kind, entry.frames) for entry in index.entries] == [("x", "video", 9), ("y", "image", 1)]
    assert [index.read(entry) for entry in index.entries] == [b"video" * 300, b"image"]
    copy = pickle.loads(pickle.dumps(index))
    assert copy.read(copy.entries[1]) == b"image"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"x.json": GOOD}, "0 pictures among json"),
        ({"x.mp4": b"v"}, "no json"),
        ({"x.mp4": b"v", "x.json": b"{}"}, "lacks 'width'"),
        ({"x.mp4": b"v", "x.json": b"{"}, "damaged"),
        ({"x.mp4": b"v", "x.json": b"[]"}, "damaged"),
        ({"x.mp4": b"v", "x.jpg": b"i", "x.json": GOOD}, "2 pictures"),
        ({"x.mp4": b"v", "x.json": GOOD.replace(b"9", b"0")}, "0 frames"),
        ({"x.mp4": b"v", "x.json": GOOD.replace(b"64", b"1e400")}, "damaged"),
        ({"x.mp4": b"v", "x.json": GOOD.replace(b"25", b"1e400")}, "inf frames per second"),
        ({"x.mp4": b"v", "x.json": GOOD.replace(b"25", b"NaN")}, "nan frames per second"),
        ({}, "holds no samples"),
    ],
)
def test_what_a_sample_lacks_is_said_and_the_others_stay(tmp_path, files, words):
    bad = write_tar(tmp_path / "a.tar", files)
    good = write_tar(tmp_path / "b.tar", {"y.mp4": b"v", "y.json": GOOD})
    index = ShardIndex([bad, good])
    assert [entry.key for entry in index.entries] == ["y"]
    assert len(index.problems) == 1
    assert words in index.problems[0]
    assert "a.tar" in index.problems[0]


def test_hard_links_are_samples_and_other_links_are_named(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in {"x.mp4": b"video", "x.json": GOOD}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target, kind in (
            ("y.mp4", "x.mp4", tarfile.LNKTYPE),
            ("y.json", "x.json", tarfile.LNKTYPE),
            ("z.mp4", "y.mp4", tarfile.LNKTYPE),
            ("z.json", "y.json", tarfile.LNKTYPE),
            ("v.mp4", "x.mp4", tarfile.SYMTYPE),
            ("w.mp4", "gone.mp4", tarfile.LNKTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            tar.addfile(member)
    index = ShardIndex(tmp_path / "a.tar")
    assert [entry.key for entry in index.entries] == ["x", "y", "z"]
    assert {index.read(entry) for entry in index.entries} == {b"video"}
    assert ["v.mp4 is a link to x.mp4" in index.problems[0], "w.mp4 is a link" in index.problems[1]] == [True, True]


def test_members_that_could_run_code_are_passed_over(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"x.mp4": b"v", "x.json": GOOD, "x.pyd": b"pickle", "x.pth": b"pickle"})
    assert len(ShardIndex(path).entries) == 1


def test_paths_globs_braces_and_folders_name_the_same_shards(tmp_path):
    paths = [str(write_tar(tmp_path / f"s-{number:03d}.tar", {})) for number in range(3)]
    for pattern in (paths, [tmp_path], [f"{tmp_path}/s-*.tar"], [f"{tmp_path}/s-{{000..002}}.tar"], [*paths, tmp_path]):
        assert expand_shards(pattern) == paths


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("pipe:cat a.tar", "read as a whole\nset loader.remote.cache_dir"),
        ("nowhere://bucket/a.tar", "unknown protocol 'nowhere'"),
        ("file:///a.tar", "without file://"),
    ],
)
def test_commands_without_a_folder_for_what_they_write_and_unknown_protocols_are_refused(pattern, words):
    with pytest.raises(ShardError, match=words):
        ShardIndex(pattern)


def test_no_match_and_a_truncated_tar_are_errors(tmp_path):
    with pytest.raises(ShardError, match="no shards match"):
        ShardIndex(f"{tmp_path}/*.tar")
    path = write_tar(tmp_path / "a.tar", {"x.mp4": b"v" * 5000, "x.json": GOOD})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ShardError, match=r"cannot read the shard .*a\.tar"):
        ShardIndex(path)


def test_samples_smaller_than_the_crop_are_left_out_and_counted(tmp_path):
    small = GOOD.replace(b"64", b"32")
    path = write_tar(tmp_path / "a.tar", {"x.mp4": b"v", "x.json": GOOD, "y.mp4": b"v", "y.json": small})
    found = usable(ShardIndex(path), (48, 48))
    assert [entry.key for entry in found.videos] == ["x"]
    assert found.photos == []
    assert len(found.lines) == 1
    assert "y is 32x48" in found.lines[0]
