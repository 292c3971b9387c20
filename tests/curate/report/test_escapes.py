import pytest

from flashvsr.curate.report.page import write_report
from tests.curate.made_run import record, rejected, write_run
from tests.curate.report_reader import read

HOSTILE = [
    "<script>alert(1)</script>.mp4",
    '"><img src=x onerror=alert(1)>.mp4',
    "' onmouseover='alert(1).mp4",
    "</style></title><svg onload=alert(1)>.mp4",
    "&lt;b&gt;&amp;.mp4",
    "]]>--><!--.mp4",
]


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
