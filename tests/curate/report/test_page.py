import json
import re

import pytest

from flashvsr.curate import CurateError
from flashvsr.curate.records import RECORDS, REPORT, THUMBNAILS
from flashvsr.curate.report.markup import duration
from flashvsr.curate.report.page import write_report
from flashvsr.curate.report.run_data import SHOWN
from tests.curate.made_run import photo, random_run, record, rejected, write_run
from tests.curate.report_reader import Page, read


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A run of 400 samples and its records."""
    out = tmp_path_factory.mktemp("run")
    records = random_run(out, 400)
    return write_run(out, records), records


def test_the_funnel_ends_with_what_the_records_say(many):
    out, records = many
    rows = read(out).tables["What is left after each stage, from raw to kept"]
    kept = [one for one in records if one["kept"]]
    clips = [one for one in kept if one["kind"] == "video"]
    raw = [one for one in records if one["kind"] == "video"]
    length = duration(sum(one["end"] - one["start"] for one in clips))
    assert len(rows) == 9
    assert rows[1][0].startswith("raw")
    assert rows[1][2] == f"{len(raw)} videos"
    assert rows[-1][0].startswith("kept")
    assert rows[-1][2:4] == [f"{len(clips)} segments", length]
    assert rows[-1][5] == str(len(kept) - len(clips))


def test_the_bars_of_the_funnel_are_as_long_as_what_is_left_and_what_went(tmp_path):
    lost = [rejected("b.mp4", "motion", "motion 0.1 < 0.5 %/s", end=4.0), photo("a.jpg"), photo("b.jpg")]
    text = write_report(write_run(tmp_path, [record("a.mp4", end=12.0), *lost])).read_text()
    row = re.search(r'<th scope="row">motion<small>.*?</tr>', text).group()
    bars = re.findall(r'<i class="(\w+)" style="width:([\d.]+)%">', row)
    assert bars == [("kept", "75.00"), ("cut", "25.00"), ("other", "100.00")]


def test_reasons_count_every_rejected_sample_once(many):
    out, records = many
    rows = read(out).tables["How much was rejected for each reason"]
    lost = [one for one in records if not one["kept"]]
    clips = sum(one["kind"] == "video" for one in lost)
    assert [int(number) for number in (rows[-1][2], rows[-1][4])] == [clips, len(lost) - clips]
    assert sum(int(row[2]) + int(row[4]) for row in rows[1:-1]) == len(lost)
    still = [one for one in lost if one["stage"] == "motion"]
    row = next(row for row in rows if row[0] == "motion below its limit")
    assert int(row[2]) + int(row[4]) == len(still)


def test_the_share_that_a_limit_cuts_leaves_out_what_equals_it(tmp_path):
    values = [0.1, 0.4, 0.5, 0.6]
    records = [
        record(f"{value}.mp4", scores={"motion": value})
        if value >= 0.5
        else rejected(f"{value}.mp4", "motion", f"motion {value} < 0.5 %/s", scores={"motion": value})
        for value in values
    ]
    records.append(rejected("e.mp4", "duplicates", "copy of a.mp4", scores={"motion": 0.5}))
    texts = read(write_run(tmp_path, records)).texts
    assert "(%/s) 2 of 5 beyond (40.0 %)" in texts
    assert texts.count("No sample reached this score.") == 4


def test_shards_and_split_add_up(many):
    out, records = many
    page = read(out)
    kept = [one for one in records if one["kept"]]
    shards = page.tables["Shards and their sizes"][1:]
    assert sum(int(row[2]) for row in shards) == len(kept)
    for name, sources, clips, _, photos, own, _ in page.tables["Training and validation split"][1:]:
        inside = [one for one in kept if one["split"] == name]
        assert int(sources) == len({one["source"] for one in inside})
        assert int(clips) + int(photos) == len(inside)
        assert int(own) == sum(row[0].startswith(f"{name}/") for row in shards)


def test_the_page_asks_for_nothing_and_forbids_it_too(many):
    out, _ = many
    text = write_report(out).read_text()
    page = Page(text)
    addresses = [
        value for key, value in page.attributes if key in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert len(addresses) > SHOWN
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"base64,[^\"]*", "", text))
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.elements)
    policy = next(value for key, value in page.attributes if value and value.startswith("default-src"))
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_every_link_inside_the_page_has_a_target(many):
    page = read(many[0])
    marks = {value for key, value in page.attributes if key == "id"}
    assert {value[1:] for key, value in page.attributes if key == "href" and value.startswith("#")} <= marks


def test_the_same_records_give_the_same_bytes_in_any_folder(many, tmp_path):
    out, records = many
    (tmp_path / "other").mkdir()
    assert random_run(tmp_path / "other", 400) == records
    again = write_report(write_run(tmp_path / "other", records))
    assert again.read_bytes() == write_report(out).read_bytes()
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_the_page_stays_small_however_large_the_pictures(tmp_path):
    folder = tmp_path / REPORT / THUMBNAILS
    folder.mkdir(parents=True)
    (folder / "big.jpg").write_bytes(b"\xff\xd8\xff" + bytes(60 << 10))
    reasons = [f"wrong in a way {chr(97 + way)}{chr(97 + kind)}" for way in range(10) for kind in range(10)]
    lost = [
        rejected(f"{reason} {number}.mp4", "quality", reason, thumbnail=f"{THUMBNAILS}/big.jpg")
        for reason in reasons
        for number in range(50)
    ]
    kept = [record(f"{number}.mp4", thumbnail=f"{THUMBNAILS}/big.jpg") for number in range(50)]
    out = write_run(tmp_path, kept + lost)
    assert write_report(out).stat().st_size < 10 << 20
    page = read(out)
    rows = page.tables["How much was rejected for each reason"]
    assert len(rows) < 50
    assert rows[-1][2] == "5,000"
    assert any(row[0] == "quality: other" for row in rows)


def test_names_and_numbers_do_not_split_a_reason(tmp_path):
    lost = [
        rejected("a.mp4", "probe", "cannot read a.mp4: damaged"),
        rejected("b/c.mp4", "probe", "cannot read b/c.mp4: no such codec"),
        rejected("d.mp4", "duplicates", "copy of a.mp4"),
        rejected("e.mp4", "duplicates", "copy of the other one"),
        rejected("h.mp4", "duplicates", "the same bytes as a.mp4"),
        rejected("i.mp4", "duplicates", "the same bytes as b/c.mp4"),
        rejected("f.mp4", "scenes", "holds 1 frames"),
        rejected("g.mp4", "scenes", "holds 0 frames"),
    ]
    rows = read(write_run(tmp_path, lost)).tables["How much was rejected for each reason"]
    words = ["probe: cannot read", "scenes: holds n frames", "duplicates: copy", "duplicates: the same bytes"]
    assert [row[0] for row in rows[1:-1]] == words
    assert [row[2] for row in rows[1:-1]] == ["2"] * 4


def test_files_that_cannot_be_used_are_listed_with_their_reasons(tmp_path):
    records = [
        record("fine.mp4"),
        rejected("broken.mp4", "probe", "damaged: moov atom not found", size=[0, 0], end=0.0),
        rejected("fatal.mp4", "quality", "crashed (signal 11)"),
        rejected("still.mp4", "motion", "motion 0.1 < 0.5 %/s"),
        rejected("copy.mp4", "duplicates", "copy of fine.mp4"),
    ]
    rows = read(write_run(tmp_path, records)).tables["Files that could not be used"]
    assert rows[1:] == [
        ["broken.mp4", "video", "all", "probe", "damaged: moov atom not found"],
        ["fatal.mp4", "video", "0:00.0 to 0:08.0", "quality", "crashed (signal 11)"],
    ]


def test_a_run_that_kept_nothing_has_a_page_that_says_so(tmp_path):
    page = read(write_run(tmp_path, [rejected("a.mp4", "motion", "motion 0.1 < 0.5 %/s", scores={"motion": 0.1})]))
    rows = page.tables["What is left after each stage, from raw to kept"]
    assert rows[-1][2:5] == ["0 segments", "0:00:00", "0.0 %"]
    assert "No shards were written." in page.texts


def test_a_run_of_nothing_has_a_page_too(tmp_path):
    page = read(write_run(tmp_path, []))
    assert page.texts.count("Nothing was rejected.") == 2
    assert "-" in page.texts


def test_a_run_of_photographs_alone_divides_nothing_by_zero(tmp_path):
    rows = read(write_run(tmp_path, [photo("a.jpg"), photo("b.jpg")])).tables
    assert rows["What is left after each stage, from raw to kept"][-1][2:] == ["0 segments", "0:00:00", "-", "2"]


def test_scores_that_are_no_numbers_are_counted_apart(tmp_path):
    scores = [1.0, float("nan"), float("inf"), None]
    out = write_run(tmp_path, [record(f"{n}.mp4", scores={"musiq": value}) for n, value in enumerate(scores)])
    texts = read(out).texts
    assert "(0 to 100) no limit, 3 without a finite value" in texts


def test_records_that_contradict_the_summary_are_refused(tmp_path):
    out = write_run(tmp_path, [record("a.mp4"), record("b.mp4")])
    records = out / REPORT / RECORDS
    records.write_text(records.read_text().splitlines()[0] + "\n")
    with pytest.raises(CurateError, match=r"says that 2 segments were kept, .* holds 1"):
        write_report(out)
    assert not (out / "report.html").exists()


def test_a_damaged_line_is_named(tmp_path):
    out = write_run(tmp_path, [record("a.mp4"), record("b.mp4")])
    records = out / REPORT / RECORDS
    first, second = records.read_text().splitlines()
    records.write_text(f"{first}\n{second[:40]}\n")
    with pytest.raises(CurateError, match="line 2, is no JSON"):
        write_report(out)
    records.write_text(f"{first}\n{json.dumps({'source': 'b.mp4'})}\n")
    with pytest.raises(CurateError, match="line 2, is damaged: KeyError\\('scores'\\)"):
        write_report(out)


def test_a_folder_without_records_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(CurateError, match=r"run\.json: no such file\nname the folder that flashvsr curate wrote"):
        write_report(tmp_path)
