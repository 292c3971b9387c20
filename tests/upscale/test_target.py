import os
from pathlib import Path

import pytest

from flashvsr.upscale.target import Target
from flashvsr.video import VideoError


@pytest.mark.parametrize(
    ("output", "format", "kind"),
    [
        ("-", "auto", "pipe"),
        ("out.mp4", "auto", "file"),
        ("out", "auto", "folder"),
        ("out", "matroska", "file"),
        ("out/%05d.png", "auto", "pattern"),
        ("out/%d.png", "auto", "pattern"),
        ("100%.mkv", "auto", "file"),
    ],
)
def test_a_name_means_what_it_looks_like(output, format, kind):
    assert Target.parse(output, format).kind == kind


def test_an_existing_folder_with_a_dot_is_a_folder(tmp_path):
    (tmp_path / "take.2").mkdir()
    assert Target.parse(tmp_path / "take.2").kind == "folder"


@pytest.mark.parametrize(
    ("output", "partial"),
    [("a/out.mp4", "a/out.mp4.partial"), ("a/out", "a/out.partial"), ("a/out/%d.png", "a/out.partial")],
)
def test_the_partial_folder_lies_beside_the_output(output, partial):
    assert Target.parse(output).partial == Path(partial)


@pytest.mark.parametrize("output", ["out/%d.png", "out", "out/%d.jpg"])
def test_images_have_no_container_and_are_png(tmp_path, output):
    (tmp_path / "out").mkdir()
    format, message = ("auto", "images are written as PNG") if output.endswith("jpg") else ("mp4", "--format mp4")
    with pytest.raises(ValueError, match=message):
        Target.parse(tmp_path / output, format)


def test_a_pattern_in_the_current_folder_has_a_partial_folder_too():
    assert Target.parse("%05d.png").partial == Path("frames.partial")


@pytest.mark.parametrize("output", ["out.mp4", "out", "out/%03d.png"])
def test_an_existing_output_is_refused_unless_it_may_be_replaced(tmp_path, output):
    made = tmp_path / "out.mp4" if output == "out.mp4" else tmp_path / "out" / "001.png"
    made.parent.mkdir(exist_ok=True)
    made.touch()
    target = Target.parse(tmp_path / output)
    with pytest.raises(FileExistsError, match=r"exists already: .* --overwrite"):
        target.check("in.mp4", overwrite=False)
    target.check("in.mp4", overwrite=True)


def test_an_empty_folder_is_no_obstacle(tmp_path):
    Target.parse(tmp_path).check("in.mp4", overwrite=False)


def test_input_and_output_must_differ(tmp_path):
    (tmp_path / "frames").mkdir()
    same = tmp_path / "frames" / ".." / "a.mp4"
    with pytest.raises(ValueError, match="both input and output"):
        Target.parse(tmp_path / "a.mp4").check(same, overwrite=True)
    with pytest.raises(ValueError, match="both input and output"):
        Target.parse(tmp_path / "frames" / "%d.png").check(tmp_path / "frames", overwrite=True)


def test_a_series_that_would_replace_images_of_the_input_is_refused(tmp_path):
    folder, links = tmp_path / "frames", tmp_path / "links"
    for place in (folder, links):
        place.mkdir()
    (folder / "00001.png").touch()
    (links / "a.png").symlink_to(folder / "00001.png")
    for source in (folder, folder / "%05d.png", folder / "00001.png", links):
        for output in (folder, folder / "%05d.png", folder / "00001.png"):
            with pytest.raises(ValueError, match="both input and output"):
                Target.parse(output).check(source, overwrite=True)
    Target.parse(folder / "b%05d.png").check(folder / "%05d.png", overwrite=True)
    Target.parse(tmp_path).check(folder, overwrite=True)


def test_an_input_in_the_partial_folder_is_refused(tmp_path):
    (tmp_path / "out.mp4.partial").mkdir()
    with pytest.raises(ValueError, match="both input and output"):
        Target.parse(tmp_path / "out.mp4").check(tmp_path / "out.mp4.partial" / "segment-000000000.nut", overwrite=True)


def test_what_is_in_the_way_of_images_is_named_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file is a file, not a folder"):
        Target.parse(tmp_path / "file").check("in.mp4", overwrite=True)
    (tmp_path / "out" / "00002.png").mkdir(parents=True)
    with pytest.raises(FileExistsError, match=r"00002\.png is a folder"):
        Target.parse(tmp_path / "out").check("in.mp4", overwrite=True)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist"):
        Target.parse(tmp_path / "nowhere" / "out.mp4").check("in.mp4", overwrite=False)


def test_placing_twice_changes_nothing(tmp_path):
    joined = tmp_path / "joined.mp4"
    joined.write_bytes(b"video")
    target = Target.parse(tmp_path / "out.mp4")
    target.place(joined, 1)
    target.place(joined, 1)
    assert (tmp_path / "out.mp4").read_bytes() == b"video"


def test_a_replaced_folder_keeps_no_old_image_and_every_other_file(tmp_path):
    for folder, names in (("out", ["00009.png", "0009.png", "in.mp4"]), ("joined", ["00001.png", "00002.png"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    Target.parse(tmp_path / "out").place(tmp_path / "joined", 2)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"0009.png", "in.mp4", "00001.png", "00002.png"}


def test_a_replaced_series_keeps_no_old_image_and_every_other_file(tmp_path):
    for folder, names in (("out", ["a09.png", "a7.png", "b09.png", "notes.txt"]), ("joined", ["a01.png", "a02.png"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    Target.parse(tmp_path / "out" / "a%02d.png").place(tmp_path / "joined", 2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a01.png",
        "a02.png",
        "a7.png",
        "b09.png",
        "notes.txt",
    }


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("old.mp4", "new.mp4"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "old.mp4").write_bytes(b"old")
    for name in ("old.mp4", "new.mp4"):  # the second leads to nothing yet
        target = Target.parse(tmp_path / name)
        target.check("in.mp4", overwrite=True)
        assert target.partial == tmp_path / "disk" / f"{name}.partial"
        (tmp_path / "joined.mp4").write_bytes(b"result")
        target.place(tmp_path / "joined.mp4", 1)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "disk" / name).read_bytes() == b"result"


def test_links_among_images_stay(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "kept.png").write_bytes(b"old")
    (tmp_path / "frames" / "00001.png").symlink_to(tmp_path / "kept.png")
    (tmp_path / "joined").mkdir()
    (tmp_path / "joined" / "00001.png").write_bytes(b"result")
    Target.parse(tmp_path / "frames").place(tmp_path / "joined", 1)
    assert (tmp_path / "frames" / "00001.png").is_symlink()
    assert (tmp_path / "kept.png").read_bytes() == b"result"


@pytest.mark.parametrize("overwrite", [False, True])
def test_devices_and_pipes_are_never_replaced(tmp_path, overwrite):
    os.mkfifo(tmp_path / "fifo.mkv")
    (tmp_path / "link.mkv").symlink_to(tmp_path / "fifo.mkv")
    for output in (tmp_path / "fifo.mkv", tmp_path / "link.mkv", "/dev/null", "/dev/stdout"):
        if output == "/dev/stdout" and Path(output).is_file():
            continue  # led into a file
        with pytest.raises(ValueError, match="is a device or a pipe, not a file: write to -"):
            Target.parse(output).check("in.mp4", overwrite=overwrite)
    assert not (tmp_path / "fifo.mkv").is_file()


def test_a_pattern_with_two_numbers_is_refused_at_once():
    with pytest.raises(VideoError, match="holds 2 numbers"):
        Target.parse("a_%d_%03d.png")
