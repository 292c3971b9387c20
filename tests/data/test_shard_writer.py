import json
import tarfile
from fractions import Fraction

import pytest
import torch
import webdataset

from flashvsr.data.clips import decode_clip, decode_image
from flashvsr.data.shard_writer import ShardRules, make_shards
from flashvsr.data.shards import ShardIndex
from flashvsr.data.tar_samples import ShardError
from flashvsr.video import VideoReader


def members(folder):
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def test_every_source_is_a_picture_with_metadata(shards):
    found = members(shards)
    assert len(found) == 14
    metadata = json.loads(found["video__clip1-000.json"])
    assert metadata == {
        "fps": 25.0,
        "frames": 30,
        "height": 96,
        "kind": "video",
        "source": "video/clip1.mp4",
        "source_size": [128, 96],
        "width": 128,
    }
    assert json.loads(found["photo_2.json"])["source"] == "photo.2.png"
    assert decode_image(found["photo_2.webp"]).size == (128, 96)


def test_webdataset_itself_reads_the_shards(shards):
    pipeline = webdataset.WebDataset(sorted(map(str, shards.glob("*.tar"))), shardshuffle=False)
    assert sorted(sample["__key__"] for sample in pipeline)[0] == "photo_0"


def test_the_same_sources_give_the_same_bytes(shards, sources, tmp_path):
    make_shards([sources], tmp_path / "again", ShardRules(max_mib=0.06))
    for shard in shards.iterdir():
        assert shard.read_bytes() == (tmp_path / "again" / shard.name).read_bytes()


def test_shards_are_closed_at_their_size_and_hold_both_kinds(sources, tmp_path):
    shards = make_shards([sources], tmp_path / "a", ShardRules(max_mib=0.04))
    assert len(shards) > 1
    kinds = [{entry.kind for entry in ShardIndex(str(shard)).entries} for shard in shards]
    assert kinds[0] == {"video", "image"}


def test_videos_and_images_shrink_to_even_sizes_and_never_grow(sources, tmp_path):
    rules = ShardRules(video_short_side=50, image_short_side=500, downscale={"photo.1.png": 2, "clip0.mp4": 4})
    make_shards([sources], tmp_path / "a", rules)
    sizes = {entry.key: (entry.width, entry.height) for entry in ShardIndex(tmp_path / "a").entries}
    assert sizes["video__clip1-000"] == (66, 50)
    assert sizes["video__clip0-000"] == (32, 24)
    assert sizes["photo_0"] == (128, 96)
    assert sizes["photo_1"] == (64, 48)


def test_everything_shrinks_at_least_by_the_factor_for_all(sources, tmp_path):
    make_shards([sources], tmp_path / "a", ShardRules(shrink=2, image_short_side=40, downscale={"clip0.mp4": 4}))
    sizes = {entry.key: (entry.width, entry.height) for entry in ShardIndex(tmp_path / "a").entries}
    assert sizes["video__clip1-000"] == (64, 48)
    assert sizes["video__clip0-000"] == (32, 24)
    assert sizes["photo_0"] == (54, 40)
    with pytest.raises(ValueError, match=r"a factor of 0\.5 enlarges"):
        ShardRules(shrink=0.5)


def test_long_videos_become_clips_that_together_hold_every_frame(sources, tmp_path):
    make_shards([sources], tmp_path / "a", ShardRules(clip_seconds=0.4))
    entries = {entry.key: entry.frames for entry in ShardIndex(tmp_path / "a").entries if "clip1" in entry.key}
    assert entries == {"video__clip1-000": 10, "video__clip1-001": 10, "video__clip1-002": 10}


def test_a_clip_looks_like_its_source(shards, sources):
    index = ShardIndex(shards)
    entry = next(entry for entry in index.entries if "clip1" in entry.key)
    clip = decode_clip(index.read(entry), 0, 30, (0, 0), (96, 128)).float()
    with VideoReader(sources / "video" / "clip1.mp4") as reader:
        source = torch.stack([frame.pixels for frame in reader]).float()
    assert (clip - source).abs().mean() < 3


def test_only_the_first_seconds_are_taken(sources, tmp_path):
    make_shards([sources], tmp_path / "a", ShardRules(max_seconds=0.4))
    assert max(entry.frames for entry in ShardIndex(tmp_path / "a").entries) == 10


def test_sources_that_cannot_be_used_are_named_and_the_rest_is_written(sources, tmp_path):
    (sources / "broken.png").write_bytes(b"no image")
    (sources / "broken.mp4").write_bytes(b"no video")
    lines = []
    make_shards(
        [sources], tmp_path / "a", ShardRules(downscale={"photo.3.png": 8}, min_short_side=20), on_progress=lines.append
    )
    left_out = [line for line in lines if line.startswith("left out")]
    assert len(left_out) == 3
    assert any("photo.3.png: 16x12 is smaller than 20" in line for line in left_out)
    assert len(ShardIndex(tmp_path / "a").entries) == 6


def test_nothing_is_overwritten_unasked_and_nothing_half_written_stays(sources, shards, tmp_path):
    before = {shard.name: shard.read_bytes() for shard in shards.iterdir()}
    with pytest.raises(ShardError, match="use --overwrite"):
        make_shards([sources], shards, ShardRules())
    with pytest.raises(ShardError, match=r"exceed 0\.01 MiB"):
        make_shards([sources], shards, ShardRules(total_mib=0.01), overwrite=True)
    assert {shard.name: shard.read_bytes() for shard in shards.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"sources", "shards"}
    assert len(make_shards([sources], shards, ShardRules(), overwrite=True)) == 1


def test_a_folder_of_other_things_is_never_replaced(sources, tmp_path):
    with pytest.raises(ShardError, match="holds other things than shards"):
        make_shards([sources], sources, ShardRules(), overwrite=True)
    assert (sources / "photo.0.png").exists()


@pytest.mark.parametrize("name", ["photos.tar", "shard-1.tar", "shard-00000.tar.bak"])
def test_only_shards_that_the_command_would_write_are_replaced(sources, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    with pytest.raises(ShardError, match="holds other things than shards"):
        make_shards([sources], out, ShardRules(), overwrite=True)
    assert (out / name).read_bytes() == b"mine"


def test_shards_in_the_current_folder_replace_the_earlier_ones(sources, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "link").symlink_to(out)
    for name in ("shard-00000.tar", "shard-00007.tar", ".hidden"):
        (out / name).write_bytes(b"old")
    monkeypatch.chdir(out)
    for place in (".", tmp_path / "link"):
        make_shards([sources], place, ShardRules(), overwrite=True)
        assert sorted(path.name for path in out.iterdir()) == [".hidden", "index.json", "shard-00000.tar"]
        assert (out / "shard-00000.tar").read_bytes() != b"old" and (out / ".hidden").read_bytes() == b"old"
    assert (tmp_path / "link").is_symlink()


def test_sources_of_one_name_are_refused(sources, tmp_path):
    (sources / "photo_0.png").write_bytes((sources / "photo.0.png").read_bytes())
    with pytest.raises(ShardError, match="would both be called photo_0"):
        make_shards([sources], tmp_path / "a", ShardRules())


def test_no_sources_is_an_error(tmp_path):
    with pytest.raises(ShardError, match="no videos or images"):
        make_shards([tmp_path], tmp_path / "a", ShardRules())


@pytest.mark.parametrize("name", ["ax_building__sample_edit_list.mp4", "ax_roof__hdr10-video-with-sdr-container.mp4"])
def test_real_hdr_is_mapped_to_an_ordinary_brightness(real_clips, tmp_path, name):
    rules = ShardRules(video_short_side=120, max_seconds=0.2)
    make_shards([real_clips / "train" / "video" / name], tmp_path / "a", rules)
    index = ShardIndex(tmp_path / "a")
    (entry,) = index.entries
    portrait = "building" in name
    assert (entry.height > entry.width) == portrait
    clip = decode_clip(index.read(entry), 0, 1, (0, 0), (entry.height, entry.width)).float()
    assert 60 < clip.mean() < 190
    assert clip.amax() > 200
    assert Fraction(entry.frames) > 3


def test_a_long_or_undecodable_name_is_a_key_and_no_end_of_everything(sources, tmp_path):
    long, odd = "n" * 240, "na\udcefve"
    (sources / "photo.0.png").rename(sources / f"{long}.png")
    (sources / "video" / "clip2.mp4").rename(sources / "video" / f"{long[:230]}.mp4")
    (sources / "photo.1.png").rename(sources / f"{odd}.png")
    make_shards([sources], tmp_path / "out", ShardRules())
    index = ShardIndex(tmp_path / "out")
    assert index.problems == []
    assert {long, f"video__{long[:230]}-000", odd} <= {entry.key for entry in index.entries}
    assert len(index.entries) == 7
