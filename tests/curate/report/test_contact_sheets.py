import re

from flashvsr.curate.records import REPORT, THUMBNAILS
from flashvsr.curate.report.page import write_report
from flashvsr.curate.report.run_data import SHOWN
from tests.curate.made_run import add_thumbnail, random_run, record, rejected, write_run
from tests.curate.report_reader import read


def test_contact_sheets_say_how_many_of_how_many_they_show(tmp_path):
    records = random_run(tmp_path, 400)
    page = read(write_run(tmp_path, records))
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


def test_a_sheet_without_any_picture_has_no_room_for_them(tmp_path):
    page = read(write_run(tmp_path, [rejected(f"{n}.mp4", "probe", "damaged", end=0.0) for n in range(3)]))
    assert page.sheets["reason-0"] == 3
    assert "no picture" not in page.texts
    assert page.texts.count("video of unknown length") == 3
