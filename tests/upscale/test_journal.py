import json
from contextlib import suppress
from fractions import Fraction

import pytest
import torch

from flashvsr.upscale.errors import ResumeError
from flashvsr.upscale.journal import Journal
from flashvsr.upscale.record import Boundary, Record

SETTINGS = {"input": "clip.mp4 0123", "seed": 0, "scale": 4.0, "version": None}


def _segment(journal, frames):
    path = journal.new_segment(".nut")
    path.write_bytes(b"video")
    return path, Boundary(frames + 4, frames, tuple(Fraction(n, 24) for n in range(frames, frames + 4)))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out.mp4.partial"


def _interrupted(folder, segments):
    """A run that closed some segments and was then interrupted."""
    with pytest.raises(KeyboardInterrupt), Journal.create(folder, SETTINGS) as journal:
        for number in range(1, segments + 1):
            journal.close_segment(*_segment(journal, 10 * number), {"cache": torch.full((3,), float(number))})
        raise KeyboardInterrupt


def test_what_no_run_has_put_into_the_folder_stays(tmp_path):
    folder = tmp_path / "out.mp4.partial"
    for end in (None, KeyboardInterrupt, OSError):
        with suppress(KeyboardInterrupt, OSError), Journal.create(folder, SETTINGS):
            (folder / "notes.txt").write_text("kept")
            (folder / "photos").mkdir(exist_ok=True)
            if end is not None:
                raise end
        assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "photos"]
        (folder / "journal.json").write_text("{}")  # else the folder is not taken for one of a run


def test_what_is_resumed_is_what_was_closed(folder):
    _interrupted(folder, 2)
    journal = Journal.resume(folder, SETTINGS)
    assert [path.name for path in journal.segments()] == ["segment-000000000.nut", "segment-000000010.nut"]
    assert journal.record.boundary == Boundary(
        24, 20, (Fraction(5, 6), Fraction(7, 8), Fraction(11, 12), Fraction(23, 24))
    )
    assert torch.equal(journal.load_state()["cache"], torch.full((3,), 2.0))


def test_only_one_snapshot_is_kept(folder):
    _interrupted(folder, 3)
    assert [path.name for path in folder.glob("state*")] == ["state-000000030.pt"]


def test_the_size_of_the_snapshot_is_told(folder):
    with Journal.create(folder, SETTINGS) as journal:
        assert journal.close_segment(*_segment(journal, 10), {"cache": torch.zeros(1000)}) > 4000


def test_what_the_journal_does_not_name_is_swept(folder):
    _interrupted(folder, 1)
    for name in ("segment-000000010.nut", "state-000000020.pt", "journal.new", "joined.mp4"):
        (folder / name).write_bytes(b"half")
    Journal.resume(folder, SETTINGS)
    assert {path.name for path in folder.iterdir()} == {
        "journal.json",
        "lock",
        "segment-000000000.nut",
        "state-000000010.pt",
    }


def test_a_run_that_fails_before_its_first_segment_leaves_nothing(folder):
    _interrupted(folder, 0)
    assert not folder.exists()


def test_a_run_that_succeeds_leaves_nothing(folder):
    with Journal.create(folder, SETTINGS) as journal:
        journal.finish(*_segment(journal, 10))
    assert not folder.exists()


def test_an_error_says_what_is_kept_and_how_to_go_on(folder):
    with pytest.raises(OSError, match="broken") as caught, Journal.create(folder, SETTINGS) as journal:
        journal.close_segment(*_segment(journal, 10), {})
        raise OSError("broken")
    assert caught.value.__notes__ == [
        f"10 frames are kept in {folder}: the same command with --resume goes on from there"
    ]


def test_without_snapshots_nothing_is_kept(folder):
    with pytest.raises(OSError), Journal.create(folder, SETTINGS, resumable=False) as journal:
        journal.close_segment(*_segment(journal, 10), {})
        raise OSError
    assert not folder.exists()


def test_every_setting_that_differs_is_named_with_both_values(folder):
    _interrupted(folder, 1)
    with pytest.raises(ResumeError, match=r"another seed \(then 0, now 1\), another scale \(then 4.0, now 2.0\)"):
        Journal.resume(folder, SETTINGS | {"seed": 1, "scale": 2.0})
    with pytest.raises(ResumeError, match=r"another impl \(then None, now triton\)"):
        Journal.resume(folder, SETTINGS | {"impl": "triton"})


def test_a_folder_in_use_is_refused(folder):
    with Journal.create(folder, SETTINGS) as journal:
        journal.close_segment(*_segment(journal, 10), {})
        with pytest.raises(ResumeError, match="in use by another run"):
            Journal.resume(folder, SETTINGS)
        with pytest.raises(ResumeError, match="in use by another run"):
            Journal.create(folder, SETTINGS)
        assert len(journal.segments()) == 1


def test_a_folder_of_someone_else_is_not_emptied(folder):
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ResumeError, match=r"thesis.tex and no journal, so it is not ours"):
        Journal.create(folder, SETTINGS)
    assert (folder / "thesis.tex").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}'])
def test_a_damaged_journal_is_an_error_of_one_line(folder, damage):
    _interrupted(folder, 1)
    (folder / "journal.json").write_text(damage)
    with pytest.raises(ResumeError, match="damaged") as caught:
        Journal.resume(folder, SETTINGS)
    assert "\n" not in str(caught.value)


def test_a_journal_of_another_format_is_refused(folder):
    _interrupted(folder, 1)
    content = json.loads((folder / "journal.json").read_text()) | {"format": 99}
    (folder / "journal.json").write_text(json.dumps(content))
    with pytest.raises(ResumeError, match="another version"):
        Record.read(folder)


def test_a_damaged_snapshot_is_refused(folder):
    _interrupted(folder, 1)
    snapshot = folder / "state-000000010.pt"
    snapshot.write_bytes(snapshot.read_bytes()[:100])
    with pytest.raises(ResumeError, match=r"snapshot .* cannot be read"):
        Journal.resume(folder, SETTINGS).load_state()


def test_a_failed_write_leaves_the_old_boundary(folder, monkeypatch):
    _interrupted(folder, 1)
    journal = Journal.resume(folder, SETTINGS)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        journal.close_segment(*_segment(journal, 20), {})
    assert journal.record == Record.read(folder)
    assert journal.record.boundary.frames_out == 10
