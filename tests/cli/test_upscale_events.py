"""Progress for scripts, and every exit status of the table in docs/upscale.md."""

import json
import re
from pathlib import Path

import pytest

from flashvsr.cli import main
from tests.upscale.standin import StandIn, write_clip
from tests.upscale.test_files import _picture

PAGE = (Path(__file__).parents[2] / "docs/upscale.md").read_text(encoding="utf-8")


@pytest.fixture
def model(monkeypatch):
    """What the command loads in place of a model."""
    model = StandIn()
    monkeypatch.setattr("flashvsr.models.loading.load", lambda *_, **__: model)
    return model


def _run(capsys, *arguments):
    status = main(["upscale", *map(str, arguments), "--json"])
    shown = capsys.readouterr()
    return status, [json.loads(line) for line in shown.out.splitlines()], shown.err


def _documented(event):
    """Fields that the page lists for an event, in code."""
    row = re.search(rf"^\| `{event}` \|(.*)\|$", PAGE, re.MULTILINE)[1]
    return set(re.findall(r"`(\w+)`", row))


def test_a_file_tells_its_start_progress_and_result_in_the_fields_of_the_page(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flashvsr.cli.upscale_events.EVERY", 0)
    clip, output = write_clip(tmp_path / "in.mp4", 60), tmp_path / "out.webm"
    status, events, errors = _run(capsys, clip, output)
    assert (status, errors) == (0, "")
    assert [event["event"] for event in events] == ["start", *["progress"] * 6, "done", "end"]
    for event in events:
        assert set(event) - {"event", "input"} == _documented(event["event"])
        assert event.get("input") == (None if event["event"] == "end" else str(clip))
    assert [event["frame"] for event in events[1:-2]] == [21, 29, 37, 45, 53, 60]
    assert {event["total"] for event in events[1:-2]} == {60}
    assert events[1]["fps"] is None
    assert events[2]["fps"] > 0
    assert events[2]["eta"] >= 0
    assert events[-2]["warnings"] == ["audio track 1 (aac) is not copied: webm does not take it without re-encoding"]
    assert events[-1]["status"] == 0


def test_a_list_tells_of_every_file(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    _picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.mp4").touch()
    assert _run(capsys, tmp_path / "in", tmp_path / "out")[0] == 3
    status, events, errors = _run(capsys, tmp_path / "in", tmp_path / "out", "--skip-done")
    assert (status, errors) == (3, "")
    assert [event["event"] for event in events] == ["start", "skipped", "start", "error", "end"]
    assert [event["file"] for event in events if event["event"] == "start"] == [1, 2]
    assert "is empty (0 bytes); expected a video file" in events[3]["message"]
    assert events[3]["input"] == str(tmp_path / "in" / "b.mp4")


@pytest.mark.parametrize(("error", "status"), [(None, 0), (MemoryError(), 1), (KeyboardInterrupt(), 130)])
def test_the_exit_status_is_that_of_the_page_and_in_the_last_line(model, tmp_path, capsys, error, status):
    model.error = error
    ended, events, errors = _run(capsys, write_clip(tmp_path / "in.mp4", 3), tmp_path / "out.mp4")
    assert (ended, events[-1], errors) == (status, {"event": "end", "status": status}, "")
    assert f"\n| {status} | " in PAGE


def test_json_does_not_mix_with_a_video_on_stdout(model, capfd):
    assert main(["upscale", "example:", "-", "--json"]) == 2
    assert "name an output file" in capfd.readouterr().err


def test_nothing_of_a_list_done_is_status_1(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.mp4").touch()
    assert _run(capsys, tmp_path / "in", tmp_path / "out")[0] == 1
