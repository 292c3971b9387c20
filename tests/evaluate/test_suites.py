"""Public test sets as they lie on disk, and what is said when they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from flashvsr.cli.evaluate import SUITES as OFFERED
from flashvsr.evaluate import SUITES, find_suite, read_clip, read_low_clip
from flashvsr.video import VideoError


def _images(folder: Path, numbers=range(2), *, pattern: str = "%08d.png", size: tuple[int, int] = (96, 64)) -> Path:
    folder.mkdir(parents=True)
    for number in numbers:
        Image.new("RGB", size, (number, 0, 0)).save(folder / (pattern % number))
    return folder


def test_the_command_offers_the_suites_there_are():
    assert tuple(SUITES) == OFFERED


@pytest.mark.parametrize("place", ["train_sharp", "train/train_sharp", ".", "GT"])
def test_reds4_is_four_clips_among_others(tmp_path, place):
    for clip in ("000", "001", "011", "015", "020", "269"):
        _images(tmp_path / place / clip)
    found = find_suite("reds4", tmp_path)
    assert list(found.clips) == ["000", "011", "015", "020"] and found.cautions == []
    assert found.clips["011"] == tmp_path / place / "011"


def test_validation_clips_of_reds_are_taken_with_a_caution(tmp_path):
    for clip in ("000", "011", "015", "020"):
        _images(tmp_path / "val" / "val_sharp" / clip)
    assert "validation set" in find_suite("reds4", tmp_path).cautions[0]
    assert "validation set" in find_suite("reds4", tmp_path / "val" / "val_sharp").cautions[0]


@pytest.mark.parametrize(
    ("suite", "count", "clip", "pattern"),
    [
        ("youhq40", 40, "GT/{:03d}", "%05d.png"),
        ("youhq40", 40, "{:03d}", "%08d.png"),
        ("spmcs", 30, "car{:02d}_001/truth", "%04d.png"),
        ("spmcs", 30, "test_set/car{:02d}_001/truth", "%04d.png"),
        ("spmcs", 30, "GT/{:03d}", "%08d.png"),
        ("udm10", 10, "GT/clip{}", "%04d.png"),
        ("udm10", 10, "GT/{:03d}", "%08d.png"),
        ("videolq", 50, "{:03d}", "%08d.png"),
        ("videolq", 50, "Input/{:03d}", "%08d.png"),
    ],
)
def test_each_suite_is_found_in_its_published_layouts(tmp_path, suite, count, clip, pattern):
    for number in range(count):
        folder = _images(tmp_path / clip.format(number), range(1, 2), pattern=pattern, size=(8, 8))
        if suite == "spmcs":  # the LR frames of others lie beside the truth
            _images(folder.parent / "input4" if folder.name == "truth" else tmp_path / "LQ" / folder.name, size=(2, 2))
    found = find_suite(suite, tmp_path)
    assert len(found.clips) == count and found.suite.has_truth == (suite != "videolq")
    assert all(next(folder.iterdir()).suffix == ".png" for folder in found.clips.values())
    assert {folder.name for folder in found.clips.values()}.isdisjoint({"input4", "LQ"})


def test_another_layout_is_refused_with_what_was_expected_and_found(tmp_path):
    for clip in ("000", "011", "020"):
        _images(tmp_path / "train_sharp" / clip)
    with pytest.raises(FileNotFoundError) as refused:
        find_suite("reds4", tmp_path)
    said = str(refused.value)
    assert "expected: the clips 000, 011, 015, 020 as CLIP/*.png" in said
    assert "train_sharp (000, 011, 020), without 015" in said and "--suite FOLDER" in said
    with pytest.raises(FileNotFoundError, match=r"(?s)expected: 40 clips.*found: 3 clips in \S*train_sharp \(000"):
        find_suite("youhq40", tmp_path / "train_sharp")
    with pytest.raises(FileNotFoundError, match="found: train_sharp, and no clip among it"):
        find_suite("spmcs", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; expected 10 clips"):
        find_suite("udm10", tmp_path / "nowhere")


def test_a_missing_or_doubled_frame_is_named(tmp_path):
    folder = _images(tmp_path / "clip", (0, 1, 3))
    with pytest.raises(VideoError, match=r"frame 2 is missing, 00000003\.png follows 00000001\.png"):
        find_suite(str(tmp_path))
    Image.new("RGB", (96, 64)).save(folder / "2.png")
    Image.new("RGB", (96, 64)).save(folder / "02.png")
    with pytest.raises(VideoError, match="have one number"):
        find_suite(str(tmp_path))


def test_any_folder_of_clips_is_a_suite_and_a_folder_of_frames_is_one_clip(tmp_path):
    _images(tmp_path / "set" / "GT" / "b")
    _images(tmp_path / "set" / "GT" / "a", pattern="frame_%d.png")
    (tmp_path / "set" / "GT" / "film.mp4").touch()
    (tmp_path / "set" / "notes.txt").touch()
    assert list(find_suite(str(tmp_path / "set")).clips) == ["a", "b", "film.mp4"]
    one = find_suite(str(tmp_path / "set" / "GT" / "a"), has_truth=False)
    assert list(one.clips) == ["a"] and not one.suite.has_truth
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="found: nothing"):
        find_suite(str(tmp_path / "empty"))


def test_a_name_and_a_folder_go_together_as_they_must(tmp_path):
    with pytest.raises(ValueError, match=r"suites are reds4.*got 'reds5', which is no folder"):
        find_suite("reds5")
    with pytest.raises(ValueError, match="name it with --data"):
        find_suite("reds4")
    with pytest.raises(ValueError, match="leave out --data"):
        find_suite(str(tmp_path), tmp_path)


def test_frames_of_a_folder_are_read_in_the_order_of_their_numbers(tmp_path):
    folder = _images(tmp_path / "clip", range(8, 12), pattern="%d.png", size=(101, 66))
    clip = read_clip(folder, "clip", frames=3, short_side=None, downscale=1)
    assert clip.frames.shape == (3, 3, 64, 100) and clip.frames[:, 0, 0, 0].tolist() == [8, 9, 10]
    assert clip.info is not None and (clip.info.width, clip.info.height, clip.info.frames) == (100, 64, 3)
    assert len(read_clip(folder, "clip", frames=None, short_side=None, downscale=1).frames) == 4


def test_an_lr_clip_is_read_as_it_is_and_cut_by_a_quarter_of_the_crop(tmp_path):
    folder = _images(tmp_path / "clip", size=(31, 17))
    assert read_low_clip(folder, "clip").lr.shape == (2, 3, 17, 31)
    cut = read_low_clip(folder, "clip", crop=(64, 96), frames=1)
    assert cut.lr.shape == (1, 3, 16, 24) and (cut.info.width, cut.info.height) == (96, 64)
    with pytest.raises(VideoError, match="at least 16"):
        read_low_clip(folder, "clip", crop=(32, 96))


def test_frames_of_several_sizes_are_refused(tmp_path):
    folder = _images(tmp_path / "clip")
    Image.new("RGB", (64, 64)).save(folder / "00000002.png")
    with pytest.raises(VideoError, match=r"00000002\.png is not of the size of 00000000\.png"):
        read_clip(folder, "clip", downscale=1)
