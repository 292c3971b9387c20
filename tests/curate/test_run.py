"""A whole run on made files: the right ones are kept and rejected, for the right reasons, and can be trained on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from flashvsr.curate import CurateError
from flashvsr.curate.records import STAGES, read_lines, read_records
from flashvsr.curate.rules import Limit
from flashvsr.curate.run import Isolated, curate
from flashvsr.data.clips import decode_clip
from flashvsr.data.shards import ShardIndex
from tests.curate.footage import KEPT, REJECTED, RULES, make_footage, pan, write_video


def here(sources, out, rules=RULES, *, workers=0, **options):
    return curate(sources, out, rules, workers=workers, **options)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    return make_footage(tmp_path_factory.mktemp("footage") / "raw")


@pytest.fixture(scope="module")
def made(footage, tmp_path_factory):
    return here([footage], tmp_path_factory.mktemp("made") / "out", licences={"good.mp4": "CC0-1.0"}).out


def bytes_of(out):
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "journal" not in path.parts
    }


def samples(out):
    return [line for line in read_lines(out / "manifest.jsonl") if line["type"] == "sample"]


def test_exactly_the_good_sources_are_kept(made):
    assert {sample["source"] for sample in samples(made)} == KEPT


@pytest.mark.parametrize("name", sorted(REJECTED))
def test_a_bad_source_is_rejected_for_its_reason(made, name):
    rows = [record for record in read_records(made / "report")[0] if record["source"] == name]
    stage, fits = REJECTED[name]
    assert rows
    for row in rows:
        assert not row["kept"]
        assert row["shard"] is None
        assert row["stage"] == stage
        assert fits(row["reason"]), row["reason"]


def test_two_scenes_become_two_clips_that_meet_at_the_cut(made):
    clips = sorted(
        (one["start"], one["end"], one["frames"]) for one in samples(made) if one["source"] == "two_scenes.mp4"
    )
    assert clips == [(0.0, 1.2, 30), (1.2, 2.4, 30)]


def test_neighbouring_segments_are_merged_into_one_clip(made):
    segments = [record for record in read_records(made / "report")[0] if record["source"] == "good.mp4"]
    clips = [sample for sample in samples(made) if sample["source"] == "good.mp4"]
    assert len(segments) == 3
    assert [clip["frames"] for clip in clips] == [60]
    assert clips[0]["licence"] == "CC0-1.0"
    assert {sample["licence"] for sample in samples(made)} == {"CC0-1.0", None}


def test_black_bars_are_cut_off_and_what_needs_no_change_is_copied(made):
    index = ShardIndex([made / "train", made / "val"])
    entries = {entry.key: entry for entry in index.entries}
    for sample in samples(made):
        boxed = sample["source"] == "letterboxed.mp4"
        assert sample["written"] == ("encoded" if boxed else "copied")
        assert hashlib.sha256(index.read(entries[sample["key"]])).hexdigest() == sample["sha256"]
        if boxed:
            assert (sample["height"], sample["width"]) == (140, 192)
            clip = decode_clip(index.read(entries[sample["key"]]), 0, 30, (0, 0), (140, 192))
            assert clip.shape[0] == 30
            assert clip[:, :, (0, -1)].float().mean() > 60


def test_copied_frames_are_those_of_the_source(made, footage):
    index = ShardIndex([made / "train", made / "val"])
    (sample,) = [one for one in samples(made) if one["source"] == "two_scenes.mp4" and one["start"] == 1.2]
    (entry,) = [one for one in index.entries if one.key == sample["key"]]
    whole = decode_clip((footage / "two_scenes.mp4").read_bytes(), 30, 30, (0, 0), (144, 192))
    assert torch.equal(decode_clip(index.read(entry), 0, 30, (0, 0), (144, 192)), whole)


def test_training_batches_come_from_the_result(made):
    from flashvsr.data import BatchDegradation
    from flashvsr.data.lit import ShardDataModule
    from flashvsr.data.settings import EpochOptions, LoaderOptions

    data = ShardDataModule(
        f"{made}/train/*.tar",
        f"{made}/val/*.tar",
        batch_size=2,
        frames=9,
        crop=128,
        epoch=EpochOptions(batches=2),
        loader=LoaderOptions(workers=0),
        device_degradation=BatchDegradation(),
    )
    data.setup("fit")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    assert [batch["hr"].shape for batch in batches] == [(2, 3, 9, 128, 128)] * 2
    assert all(batch["lr"].std() > 0.05 for batch in batches)
    assert not data.broken
    assert len(list(data.val_dataloader())) == sum(one["split"] == "val" for one in samples(made)) > 0


def test_no_source_is_on_both_sides(made):
    sides = {}
    for sample in samples(made):
        sides.setdefault(sample["source"], set()).add(sample["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert set.union(*sides.values()) == {"train", "val"}


def test_the_manifest_counts_and_names_no_place_or_time(made, footage):
    lines = list(read_lines(made / "manifest.jsonl"))
    for shard in (line for line in lines if line["type"] == "shard"):
        path = made / shard["name"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]
        assert path.stat().st_size == shard["bytes"]
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        assert len(members) == 2 * shard["samples"]
        assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
    for text in ((made / "manifest.jsonl").read_text(), (made / "report" / "records.jsonl").read_text()):
        assert str(footage) not in text
        assert os.uname().nodename not in text


def test_the_funnel_narrows_to_what_is_kept(made):
    records, run = read_records(made / "report")
    assert [step["stage"] for step in run["funnel"]] == ["raw", *STAGES, "kept"]
    videos, photos = (sum(one["kept"] and one["kind"] == kind for one in records) for kind in ("video", "photo"))
    last = run["funnel"][-1]
    assert (last["count"], last["photos"]) == (videos, photos) == (11, 2)
    hours = [step["hours"] for step in run["funnel"]]
    assert hours == sorted(hours, reverse=True)
    assert hours[-1] == pytest.approx(sum(sample["end"] - sample["start"] for sample in samples(made)) / 3600, rel=1e-3)


def test_every_score_has_its_limits_and_every_segment_a_thumbnail(made):
    records, run = read_records(made / "report")
    for record in records:
        assert record["scores"].keys() <= run["thresholds"].keys()
        if record["kept"]:
            with Image.open(made / "report" / record["thumbnail"]) as image:
                assert image.width <= 160
            assert all(
                (limit["min"] is None or record["scores"][score] >= limit["min"])
                and (limit["max"] is None or record["scores"][score] <= limit["max"])
                for score, limit in run["thresholds"].items()
                if score in record["scores"]
            )


def test_the_same_footage_gives_the_same_bytes_under_other_names_of_folders(made, footage, tmp_path):
    other = tmp_path / "elsewhere"
    other.symlink_to(footage)
    again = here([other], tmp_path / "out", licences={"good.mp4": "CC0-1.0"}).out
    assert bytes_of(again) == bytes_of(made)


# In a process of its own: what Ray leaves running would be in every later fork of this one, and may hang there.
WITH_RAY = """
import sys
from footage import RULES
from flashvsr.curate.run import curate
result = curate([sys.argv[1]], sys.argv[2], RULES, workers=int(sys.argv[3]), licences={"good.mp4": "CC0-1.0"})
assert {"probe", "scenes", "frames", "quality", "motion", "write"} <= result.times.keys(), result.times
assert min(result.times.values()) > 0, result.times
"""


@pytest.mark.slow  # two starts of Ray
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_ray_make_the_same_as_one_process(made, footage, tmp_path, workers):
    command = [sys.executable, "-c", WITH_RAY, str(footage), str(tmp_path / "out"), str(workers)]
    subprocess.run(command, check=True, timeout=300, cwd=Path(__file__).parent)
    assert bytes_of(tmp_path / "out") == bytes_of(made)


def test_a_finished_run_resumes_without_measuring_again(footage, tmp_path):
    here([footage], tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    again = here([footage], tmp_path / "out", resume=True)
    assert bytes_of(tmp_path / "out") == before
    assert "scenes" not in again.times
    assert again.times["write"] == 0


def test_a_changed_shard_is_written_again_and_shards_of_no_source_go(footage, tmp_path):
    good = here([footage], tmp_path / "out")
    before = bytes_of(good.out)
    (good.out / good.shards[0]).write_bytes(b"changed")
    write_video(tmp_path / "more.mp4", pan(30, 30))
    here([footage, tmp_path / "more.mp4"], good.out, resume=True)
    assert len(samples(good.out)) == 8
    here([footage], good.out, resume=True)
    after = bytes_of(good.out)
    assert {name: data for name, data in after.items() if "thumbnails" not in name} == {
        name: data for name, data in before.items() if "thumbnails" not in name
    }


def test_a_folder_in_use_is_refused_and_so_is_another_recipe(footage, tmp_path):
    here([footage], tmp_path / "out")
    with pytest.raises(CurateError, match="not empty\nuse --resume"):
        here([footage], tmp_path / "out")
    with pytest.raises(CurateError, match="had another crf\nset it back"):
        here([footage], tmp_path / "out", replace(RULES, crf=20.0), workers=0, resume=True)
    with pytest.raises(CurateError, match="had another seed"):
        here([footage], tmp_path / "out", seed=1, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(CurateError, match="holds no run"):
        here([footage], tmp_path / "other", resume=True)


def test_nothing_kept_is_an_error_that_shows_the_funnel_and_leaves_the_records(footage, tmp_path):
    strict = replace(RULES, thresholds=RULES.thresholds | {"sharpness": Limit(min=99)})
    with pytest.raises(CurateError, match=r"nothing is kept of 20 sources\nstage +videos") as error:
        curate([footage], tmp_path / "out", strict, workers=0)
    assert "quality: sharpness < 99 %" in str(error.value)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()
    records, run = read_records(tmp_path / "out" / "report")
    assert run["funnel"][-1]["count"] == 0
    assert len(records) > 20


def test_a_source_without_end_is_recorded_and_the_run_goes_on(tmp_path):
    write_video(tmp_path / "good.mp4", pan(1, 30))
    os.mkfifo(tmp_path / "endless.mp4")
    (tmp_path / "list.txt").write_text("good.mp4\nendless.mp4\n")
    made = here([tmp_path / "list.txt"], tmp_path / "out", replace(RULES, timeout=5.0), workers=0)
    assert {sample["source"] for sample in samples(made.out)} == {"good.mp4"}
    (lost,) = [record for record in read_records(made.out / "report")[0] if not record["kept"]]
    assert (lost["source"], lost["stage"], lost["reason"]) == ("endless.mp4", "probe", "no result within 5 s")


def crash(row, rules):
    os.abort()


def test_a_crash_rejects_the_row_that_caused_it():
    from flashvsr.curate.rows import Row

    (row,) = Isolated("scenes", crash, (RULES,), 30.0)(Row("/x/a.mp4", "a.mp4"))
    assert (row.stage, row.reason) == ("scenes", "crashed (signal 6)")


def test_records_are_json_of_the_documented_form(made):
    keys = {"source", "kind", "start", "end", "size", "fps", "kept", "stage", "reason", "scores", "thumbnail"}
    for line in (made / "report" / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        assert record.keys() == keys | {"split", "shard"}
        assert (record["stage"] is None) == record["kept"] == (record["split"] is not None)
