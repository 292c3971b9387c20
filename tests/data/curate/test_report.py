import json
import re
from html.parser import HTMLParser

import pytest
from made_run import add_thumbnail, photo, random_run, record, rejected, write_run

from flashvsr.data import VideoError
from flashvsr.data.curate.records import RECORDS, REPORT, THUMBNAILS
from flashvsr.data.curate.report import write_report
from flashvsr.data.curate.report_data import SHOWN
from flashvsr.data.curate.report_markup import duration, escape, share, size, tag

HOSTILE = [
    "<script>alert(1)</script>.mp4",
    '"><img src=x onerror=alert(1)>.mp4',
    "' onmouseover='alert(1).mp4",
    "</style></title><svg onload=alert(1)>.mp4",
    "&lt;b&gt;&amp;.mp4",
    "]]>--><!--.mp4",
]


class Page(HTMLParser):
    """What a browser would make of the page: elements, attributes, texts, tables by their captions."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.texts, self.tables, self.sheets = [], [], [], {}, {}
        self._cell = self._rows = self._section = None
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.elements.append(name)
        self.attributes += attributes
        if name == "section":
            self._section = dict(attributes)["id"]
        elif name == "li":
            self.sheets[self._section] = self.sheets.get(self._section, 0) + 1
        elif name == "tr":
            self._rows.append([])
        elif name in ("td", "th", "caption"):
            self._cell = ""

    def handle_endtag(self, name):
        if name == "caption":
            self._rows = self.tables.setdefault(self._cell, [])
        elif name in ("td", "th"):
            self._rows[-1].append(self._cell)
        if name in ("td", "th", "caption"):
            self._cell = None

    def handle_data(self, text):
        self.texts.append(text)
        if self._cell is not None:
            self._cell += text


def read(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


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


def test_contact_sheets_say_how_many_of_how_many_they_show(many):
    out, records = many
    page = read(out)
    kept = sum(one["kept"] for one in records)
    assert kept > SHOWN
    assert page.sheets["kept"] == SHOWN
    assert f"showing {SHOWN} of {kept}, a fixed random choice" in page.texts
    damaged = [one for one in records if one["stage"] == "probe"]
    assert page.sheets["reason-0"] == len(damaged)
    assert f"showing {len(damaged)} of {len(damaged)}" in page.texts


def test_a_sheet_of_a_score_is_in_its_order(tmp_path):
    lost = [rejected(f"{n}.mp4", "motion", f"motion 0.{n} < 0.5 %/s", scores={"motion": n / 10}) for n in (3, 1, 4, 2)]
    page = read(write_run(tmp_path, lost))
    assert [text for text in page.texts if re.fullmatch(r"\d\.mp4", text)] == ["1.mp4", "2.mp4", "3.mp4", "4.mp4"]


def test_the_share_that_a_limit_cuts_leaves_out_what_equals_it(tmp_path):
    values = [0.1, 0.4, 0.5, 0.6]
    records = [
        record(f"{value}.mp4", scores={"motion": value})
        if value >= 0.5
        else rejected(f"{value}.mp4", "motion", f"motion {value} < 0.5 %/s", scores={"motion": value})
        for value in values
    ]
    texts = read(write_run(tmp_path, records)).texts
    assert "(%/s) 2 of 4 beyond (50.0 %)" in texts
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


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_name_becomes_markup(tmp_path, name):
    plain = read(write_run(tmp_path / "plain", [record("plain.mp4"), rejected("b.mp4", "probe", "damaged: plain.mp4")]))
    other = write_run(tmp_path / "other", [record(name), rejected(name, "probe", f"damaged: {name}")])
    page = read(other)
    assert page.elements == plain.elements
    assert [key for key, _ in page.attributes] == [key for key, _ in plain.attributes]
    assert name in page.texts
    assert f"damaged: {name}" in page.texts


def test_a_hostile_summary_becomes_no_markup_either(tmp_path):
    evil = "<script>alert(1)</script>"
    limits = {evil: {"min": 1.0, "max": None, "unit": evil}}
    shards = [{"name": evil, "bytes": 1, "samples": 1, "seconds": 8.0, "split": evil}]
    kept = record("a.mp4", scores={evil: 2.0}, split=evil, shard=evil)
    page = read(write_run(tmp_path, [kept], recipe=evil, thresholds=limits, shards=shards))
    assert "script" not in page.elements
    assert page.texts.count(evil) >= 4


def test_letters_that_hide_or_turn_a_name_are_written_out(tmp_path):
    name = "gpj\u202e4pm.\udcff\x00\n\u200b.mp4"
    page = write_report(write_run(tmp_path, [record(name)])).read_bytes().decode("utf-8")
    assert r"gpj\u202e4pm.\udcff\u0000\u000a\u200b.mp4" in page
    assert not set("\u202e\x00\u200b") & set(page)


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


def test_the_choice_of_shown_samples_does_not_depend_on_their_order(tmp_path):
    records = [record(f"{number:04d}.mp4") for number in range(10 * SHOWN)]
    forward = write_report(write_run(tmp_path / "a", records)).read_bytes()
    assert write_report(write_run(tmp_path / "b", records[::-1])).read_bytes() == forward


def test_a_picture_that_is_missing_damaged_huge_or_elsewhere_is_left_out(tmp_path):
    add_thumbnail(tmp_path, "good.jpg", (200, 30, 30))
    folder = tmp_path / REPORT / THUMBNAILS
    (folder / "damaged.jpg").write_bytes(b"GIF89a")
    (folder / "huge.jpg").write_bytes(b"\xff\xd8\xff" + bytes(1 << 20))
    (tmp_path / "secret.jpg").write_bytes((folder / "good.jpg").read_bytes())
    (folder / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    names = [f"{THUMBNAILS}/{name}.jpg" for name in ("good", "damaged", "huge", "link", "none")]
    names += ["../secret.jpg", str(tmp_path / "secret.jpg"), THUMBNAILS, None]
    records = [record(f"{number}.mp4", thumbnail=name) for number, name in enumerate(names)]
    page = read(write_run(tmp_path, records))
    assert page.elements.count("img") == 1
    assert page.texts.count("no picture") == len(names) - 1


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
        rejected("f.mp4", "scenes", "holds 1 frames"),
        rejected("g.mp4", "scenes", "holds 0 frames"),
    ]
    rows = read(write_run(tmp_path, lost)).tables["How much was rejected for each reason"]
    assert [row[0] for row in rows[1:-1]] == ["probe: cannot read", "scenes: holds n frames", "duplicates: copy"]
    assert [row[2] for row in rows[1:-1]] == ["2", "2", "2"]


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
    with pytest.raises(VideoError, match=r"says that 2 segments were kept, .* holds 1"):
        write_report(out)
    assert not (out / "report.html").exists()


def test_a_damaged_line_is_named(tmp_path):
    out = write_run(tmp_path, [record("a.mp4"), record("b.mp4")])
    records = out / REPORT / RECORDS
    first, second = records.read_text().splitlines()
    records.write_text(f"{first}\n{second[:40]}\n")
    with pytest.raises(VideoError, match="line 2, is no JSON"):
        write_report(out)
    records.write_text(f"{first}\n{json.dumps({'source': 'b.mp4'})}\n")
    with pytest.raises(VideoError, match="line 2, is damaged: KeyError\\('scores'\\)"):
        write_report(out)


def test_a_folder_without_records_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(VideoError, match=r"run\.json: no such file\nname the folder that flashvsr curate wrote"):
        write_report(tmp_path)


def test_attributes_and_children_are_escaped_unless_they_are_markup():
    inner = tag("b", "<i>")
    assert tag("p", inner, "a & b", title='"', class_=None) == '<p title="&quot;"><b>&lt;i&gt;</b>a &amp; b</p>'
    assert escape(inner) != inner


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00:00"),
        (0.04, "0:00:00"),
        (7.97, "0:00:08.0"),
        (59.96, "0:01:00"),
        (3599.6, "1:00:00"),
        (4_000_000, "1,111:06:40"),
    ],
)
def test_durations_are_rounded_to_what_is_shown(seconds, text):
    assert duration(seconds) == text


def test_shares_never_round_to_nothing_or_everything():
    assert [share(*pair) for pair in ((0, 5), (1, 1e6), (1, 3), (999_999, 1e6), (5, 5), (0, 0))] == [
        "0.0 %",
        "< 0.1 %",
        "33.3 %",
        "> 99.9 %",
        "100.0 %",
        "-",
    ]


def test_sizes_have_units():
    assert [size(number) for number in (0, 1023, 1024, 3 << 19, 5 << 30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "5.0 GiB",
    ]
