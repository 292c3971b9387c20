from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.cli import main
from flashvsr.data import Degradation
from flashvsr.video import VideoInfo, VideoReader


def read(path):
    with VideoReader(path) as reader:
        frames = list(reader)
    return torch.stack([frame.pixels for frame in frames]), [frame.time for frame in frames]


def test_a_video_comes_out_a_quarter_as_large_with_its_frames_and_times(tmp_path, write_clip, capsys):
    source, out = tmp_path / "in.mp4", tmp_path / "low.nut"
    info = VideoInfo(256, 192, Fraction(25), Fraction(1, 90000))
    write_clip(source, [Fraction(number, 25) for number in (0, 1, 2, 5, 6, 9, 10, 11)], info)
    assert main(["degrade", str(source), str(out), "--seed", "3", "--codec", "ffv1"]) == 0
    hr, times = read(source)
    low, low_times = read(out)
    assert low_times == times
    expected = Degradation()(hr, 3)
    assert (low.float() - expected.float()).abs().mean() < 3  # 4:2:0 colour or its absence, never other pictures
    assert f"{len(times)} frames" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_images_and_another_seed_others(tmp_path):
    with VideoReader("example:") as reader:
        frames = [frame.pixels for frame in islice(reader, 3)]
    source = tmp_path / "in"
    source.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(source / f"{number}.png")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["degrade", str(source), str(tmp_path / name), "--seed", seed]) == 0
    a, b, c = (read(tmp_path / name)[0] for name in "abc")
    assert torch.equal(a, Degradation()(torch.stack(frames), 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("output", ["V", "V/", "link", "."])
def test_a_folder_as_output_keeps_all_that_the_run_does_not_write(tmp_path, monkeypatch, output):
    folder = tmp_path / "V"
    folder.mkdir()
    Image.new("RGB", (64, 48)).save(folder / "in.png")
    (folder / "notes.txt").write_text("kept")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder if output == "." else tmp_path)
    assert main(["degrade", str(folder / "in.png"), output, "--seed", "0", "--overwrite"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["00001.png", "in.png", "notes.txt"]
    assert Image.open(folder / "in.png").size == (64, 48)


def test_one_picture_comes_out_as_one_picture(tmp_path):
    photo = torch.randint(0, 256, (3, 50, 70), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(photo.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    out = tmp_path / "low.png"
    assert main(["degrade", str(tmp_path / "photo.png"), str(out), "--seed", "0", "--preset", "bicubic"]) == 0
    expected = Degradation(clean_fraction=1)(photo[None], 0)[0]
    assert np.array_equal(np.array(Image.open(out)), expected.permute(1, 2, 0).numpy())


def test_a_video_does_not_fit_in_one_picture(tmp_path, capsys):
    assert main(["degrade", "example:", str(tmp_path / "low.png"), "--seed", "0", "--preset", "bicubic"]) == 1
    assert "low.png is one picture, and example: is none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_there_is_kept_unless_overwrite_says_so(tmp_path, write_clip, capsys):
    source, out = write_clip(tmp_path / "in.mp4", [Fraction(number, 25) for number in range(5)]), tmp_path / "low.mp4"
    out.write_bytes(b"precious")
    arguments = ["degrade", str(source), str(out), "--seed", "0", "--preset", "bicubic"]
    assert main(arguments) == 1
    assert "exists already" in capsys.readouterr().err
    assert out.read_bytes() == b"precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert len(read(out)[0]) == 5
    assert {path.name for path in tmp_path.iterdir()} == {"in.mp4", "low.mp4"}


def test_a_missing_input_is_one_clear_line(tmp_path, capsys):
    assert main(["degrade", str(tmp_path / "none.mp4"), str(tmp_path / "low.mp4"), "--seed", "0"]) == 1
    assert "none.mp4" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_seed_is_needed(tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["degrade", "example:", str(tmp_path / "low.mp4")])
    assert stop.value.code == 2


def test_a_real_clip_keeps_every_frame_and_time(tmp_path, real_clips):
    clip = min((real_clips / "val" / "video").glob("*.mp4"), key=lambda path: path.stat().st_size)
    out = tmp_path / "low.mp4"
    assert main(["degrade", str(clip), str(out), "--seed", "1", "--preset", "bicubic"]) == 0
    with VideoReader(clip) as source, VideoReader(out) as low:
        pairs = [(a.time, b.time, b.pixels.shape) for a, b in zip(source, low, strict=True)]
        shape = (3, (source.info.height + 2) // 4, (source.info.width + 2) // 4)
    assert all(a == b and size == shape for a, b, size in pairs)
