"""Folders and lists: which files they stand for, what becomes of each, and what a second run does."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

import flashvsr.models.loading
from flashvsr.cli import main
from flashvsr.upscale import FilePair, find_files, upscale_file, upscale_files
from flashvsr.upscale.done import LIST
from tests.upscale.standin import StandIn, read_frames, write_clip

LONG = "x" * 251


def _picture(path: Path, size: tuple[int, int] = (20, 16), mode: str = "RGB", **options) -> Path:
    pixels = np.linspace(0, 255, size[0] * size[1] * 3).astype(np.uint8).reshape(size[1], size[0], 3)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


def _names(pairs: list[FilePair] | None) -> list[str] | None:
    return None if pairs is None else [pair.output.name for pair in pairs]


def _listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["1.png", "2.png", "3.png"], None),
        (["a09.png", "a10.png"], None),
        (["b.png", "a.jpg"], ["a.png", "b.png"]),
        (["1.png", "2.png", "clip.mp4"], ["1.png", "2.png", "clip.mp4"]),
        (["clip.avi", "clip.mov", "notes.txt", ".hidden.mp4"], ["clip.mkv", "clip.mov"]),
        (["photo 7.png"], ["photo 7.png"]),
    ],
)
def test_a_folder_is_one_video_only_when_its_pictures_are_numbered_without_a_gap(tmp_path, names, found):
    folder = _touch(tmp_path / "in", *names)
    assert _names(find_files([folder], tmp_path / "out")) == found


@pytest.mark.parametrize("names", [["1.png", "3.png"], ["a1.png", "a2.png", "b.png"], ["1.png", "2.png", "2.jpg"]])
def test_a_folder_that_may_be_either_is_refused_with_both_ways_out_and_both_work(tmp_path, names):
    folder = _touch(tmp_path / "in", *names)
    with pytest.raises(ValueError, match=r"OUTPUT/%05d.png, for separate pictures add --glob '\*'"):
        find_files([folder], tmp_path / "out")
    assert len(find_files([folder], tmp_path / "out", glob="*")) == len(names)
    assert find_files([folder], tmp_path / "out" / "%05d.png") is None


@pytest.mark.parametrize("output", ["out.mp4", "-", "out/%05d.png"])
def test_a_folder_is_one_video_when_the_output_is(tmp_path, output):
    assert find_files([_touch(tmp_path / "in", "a.png", "b.png")], output) is None


def test_a_pattern_goes_into_folders_and_keeps_their_places(tmp_path):
    folder = _touch(tmp_path / "in", "a.mp4", "deep/er/b.mp4", "deep/notes.txt", "out/c.mp4", "deep/.x/d.mp4", "e.dat")
    pairs = find_files([folder], folder / "out", glob="**/*")
    assert [pair.output.relative_to(folder).as_posix() for pair in pairs] == ["out/a.mp4", "out/deep/er/b.mp4"]
    assert _names(find_files([folder], tmp_path / "out", glob="*.dat")) == ["e.mkv"]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["a.mp4", "b.mp4"], "out.mp4", "out.mp4 is no folder"),
        (["a.mp4", "-"], "out", "- cannot be in a list"),
        (["."], ".", "both input and output"),
        (["empty"], "out", r"holds no video or picture .* looks into its folders"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(tmp_path, monkeypatch, inputs, output, message):
    monkeypatch.chdir(_touch(tmp_path, "a.mp4", "b.mp4", "empty/notes.txt"))
    with pytest.raises(ValueError, match=message):
        find_files(inputs, output)


def _mixed(folder: Path) -> dict[str, list[str]]:
    """40 tiny files, good and bad, by what should become of them."""
    folder.mkdir()
    good = [
        "plain.mp4",
        "with spaces.mp4",
        "100% sure.mp4",
        "50%d.png",
        "%%.png",
        "🎈 ballon.mp4",
        "a:b.png",
        "[x].png",
    ]
    good += [f"{LONG}.mp4", f"{LONG}.png", "-dash.mp4", "'quote\".png", "new\nline.png", "ünï.JPG", "gray.png"]
    good += [f"clip {number}.mkv" for number in range(5)] + [f"photo{number}.jpg" for number in range(10)]
    clip = write_clip(folder / "plain.mp4", 3, size=(16, 32)).read_bytes()
    for name in good[1:]:
        if name.endswith(".mp4"):
            (folder / name).write_bytes(clip)
        elif name.endswith(".mkv"):
            write_clip(folder / name, 2, size=(16, 32), audio=False)
        else:
            _picture(folder / name, mode="L" if name == "gray.png" else "RGB")
    bad = {"empty.mp4": b"", "text.mp4": b"not a film\n" * 99, "cut.mp4": clip[: len(clip) // 2], "no.png": b"\x89PNG"}
    bad |= {
        "zeros.mkv": bytes(999),
        "half.jpg": (folder / "photo0.jpg").read_bytes()[:40],
        "x.avi": b"RIFF",
        "y.ts": b"G",
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    _picture(folder / "small.png", (15, 40))
    _picture(folder / "photo0.png")  # whose result would have the name of that of photo0.jpg
    return {"done": good, "failed": [*bad, "small.png", "photo0.png"]}


def test_forty_mixed_files_end_with_every_good_one_done_and_every_bad_one_named(tmp_path, monkeypatch, capsys):
    expected = _mixed(tmp_path / "in")
    assert sum(map(len, expected.values())) == len(list((tmp_path / "in").iterdir())) == 40
    loaded = []
    monkeypatch.setattr(flashvsr.models.loading, "load", lambda *_, **__: loaded.append(1) or StandIn())
    command = ["upscale", str(tmp_path / "in"), str(tmp_path / "out"), "--scale", "2"]
    assert main(command) == 3
    shown = capsys.readouterr().err
    table = shown[shown.index("\ndone ") :]
    assert all(f"failed   {tmp_path / 'in' / name}  " in table for name in expected["failed"])
    assert r"/new\nline.png  1 frame," in table
    assert "40 files: 30 done, 10 failed" in shown
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.name != LIST}
    assert len(made) == 30
    assert read_frames(tmp_path / "out" / f"{LONG}.mp4")[0].shape == (3, 3, 32, 64)
    assert Image.open(tmp_path / "out" / "photo3.png").size == (40, 32)
    assert loaded == [1]

    assert main([*command, "--skip-done"]) == 3
    assert "40 files: 30 done before, 10 failed" in capsys.readouterr().err
    for name in expected["failed"]:
        (tmp_path / "in" / name).unlink()
    loaded.clear()
    assert main([*command, "--skip-done", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert loaded == []
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.name != LIST} == made


@pytest.fixture
def pair(tmp_path):
    """Two pictures, upscaled into a folder."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        _picture(folder / name)
    upscale_files([folder], tmp_path / "out", model=StandIn(), quiet=True)
    return folder


def _again(pair: Path, **options) -> list[str]:
    outcomes = upscale_files([pair], pair.parent / "out", model=StandIn(), skip_done=True, quiet=True, **options)
    return [f"{outcome.status} {outcome.error}".strip() for outcome in outcomes]


def test_what_was_made_with_other_settings_is_named_and_replaced_only_when_asked(pair):
    first, _ = _again(pair, scale=2)
    assert first.startswith("failed")
    assert "a.png was made with another scale (then 4.0, now 2.0): --overwrite makes it anew" in first
    assert _again(pair, scale=2, overwrite=True) == ["done", "done"]
    assert _again(pair, scale=2, overwrite=True) == ["skipped", "skipped"]


def test_a_changed_input_and_a_changed_output_are_not_done(pair):
    _picture(pair / "a.png", (24, 16))
    (pair.parent / "out" / "b.png").write_bytes(b"edited")
    first, second = _again(pair)
    assert "a.png was made with another input" in first
    assert "b.png exists already" in second
    (pair.parent / "out" / "b.png").unlink()
    assert _again(pair)[1] == "done"


def test_half_a_line_of_the_list_costs_one_file_and_no_more(pair):
    path = pair.parent / "out" / LIST
    path.write_bytes(path.read_bytes()[:-20])
    assert [line.split()[0] for line in _again(pair)] == ["skipped", "failed"]
    assert _again(pair, overwrite=True) == ["skipped", "done"]
    assert _again(pair) == ["skipped", "skipped"]
    assert [json.loads(line)["file"] for line in path.read_text().splitlines()[::2]] == ["a.png", "b.png"]


def test_a_full_disk_ends_a_list_and_a_defect_of_one_file_does_not(pair, capsys):
    full = StandIn(error=OSError(28, "No space left on device"), steps=0)
    outcomes = upscale_files([pair], pair.parent / "out2", model=full, quiet=True)
    assert [outcome.status for outcome in outcomes] == ["failed", "left"]

    class Defect(StandIn):
        def step(self, lr, noise, state):
            self.error, error = None, self.error
            if error:
                raise error
            return super().step(lr, noise, state)

    outcomes = upscale_files([pair], pair.parent / "out3", model=Defect(error=RuntimeError("oh")), quiet=True)
    assert [outcome.status for outcome in outcomes] == ["failed", "done"]
    assert outcomes[0].error == "RuntimeError: oh"
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_list_goes_on_where_it_was_stopped(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    _picture(folder / "a.png")
    write_clip(folder / "b.mp4", 40)
    _picture(folder / "c.png")
    options = {"quiet": True, "segment_seconds": 0.5}
    with pytest.raises(KeyboardInterrupt) as interruption:
        stopped = StandIn(error=KeyboardInterrupt(), steps=3)
        upscale_files([folder], tmp_path / "out", model=stopped, **options)
    assert "1 of 3 files are dealt with" in interruption.value.__notes__[-1]
    again = upscale_files([folder], tmp_path / "out", model=StandIn(), skip_done=True, resume=True, **options)
    assert [outcome.status for outcome in again] == ["skipped", "done", "done"]
    assert _listed(tmp_path / "out") == [LIST, "a.png", "b.mp4", "c.png"]
    upscale_file(folder / "b.mp4", tmp_path / "whole.mp4", model=StandIn(), **options)
    assert torch.equal(read_frames(tmp_path / "whole.mp4")[0], read_frames(tmp_path / "out" / "b.mp4")[0])


@pytest.mark.parametrize("name", ["big.png", "big.jpg"])
def test_a_picture_goes_in_and_a_picture_comes_out(tmp_path, name):
    upscale_file(_picture(tmp_path / "in.jpg"), tmp_path / name, model=StandIn(), quiet=True)
    assert Image.open(tmp_path / name).size == (80, 64)
    assert Image.open(tmp_path / name).format == ("PNG" if name.endswith("png") else "JPEG")
    assert _listed(tmp_path) == [name, "in.jpg"]
    with pytest.raises(FileExistsError, match="exists already"):
        upscale_file(tmp_path / "in.jpg", tmp_path / name, model=StandIn(), quiet=True)


def test_a_picture_of_a_video_is_refused_before_anything_is_loaded(tmp_path):
    for source in (write_clip(tmp_path / "in.mp4", 2), "-", "frames/%d.png"):
        with pytest.raises(ValueError, match=r"out.png is one picture.* a pattern such as out_%05d.png"):
            upscale_file(source, tmp_path / "out.png", model="no model", quiet=True)


def test_a_picture_keeps_its_colour_profile_and_stands_upright(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    source = _picture(tmp_path / "in.jpg", (32, 16), icc_profile=profile, exif=exif)
    upscale_file(source, tmp_path / "out.png", model=StandIn(), scale=2, quiet=True)
    result = Image.open(tmp_path / "out.png")
    assert result.size == (32, 64)
    assert result.info["icc_profile"] == profile


def test_a_picture_that_becomes_a_video_is_one_frame(tmp_path):
    upscale_file(_picture(tmp_path / "in.png", (32, 32)), tmp_path / "out.mkv", model=StandIn(), quiet=True)
    assert read_frames(tmp_path / "out.mkv")[1] == [Fraction(0)]


def test_an_animated_picture_of_a_list_becomes_a_video(tmp_path):
    (tmp_path / "in").mkdir()
    pictures = [Image.new("RGB", (32, 32), (80 * number, 0, 0)) for number in range(3)]
    pictures[0].save(tmp_path / "in" / "a.png", save_all=True, append_images=pictures[1:], duration=100)
    _picture(tmp_path / "in" / "b.png")
    outcomes = upscale_files([tmp_path / "in"], tmp_path / "out", model=StandIn(), quiet=True)
    assert [(outcome.output.name, outcome.result.frames) for outcome in outcomes] == [("a.mkv", 3), ("b.png", 1)]
