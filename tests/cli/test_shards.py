from fractions import Fraction

import pytest
import torch
from PIL import Image

from flashvsr.cli import main
from flashvsr.video import VideoInfo, VideoWriter


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    info = VideoInfo(64, 48, Fraction(25), Fraction(1, 25))
    with VideoWriter(folder / "clip.mp4", width=64, height=48, info=info) as writer:
        for number in range(5):
            writer.write(torch.full((3, 48, 64), 20 * number, dtype=torch.uint8), Fraction(number, 25))
    Image.new("RGB", (64, 48), "gray").save(folder / "photo.png")
    return folder


def test_shards_are_made_and_shown(sources, tmp_path, capsys):
    (tmp_path / "list.tsv").write_text("photo.png\t2\n")
    command = ["shards", "make", str(sources), "--out", str(tmp_path / "out")]
    assert main([*command, "--downscale-list", str(tmp_path / "list.tsv")]) == 0
    assert "photo: 32x24, 1 frames" in capsys.readouterr().out
    assert main(["shards", "show", "--decode", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "shard-00000.tar: 2 samples" in out
    assert "video: 1, " in out
    assert "5 frames, 0.2 s" in out
    assert "image: 1, " in out
    assert main(command) == 1
    assert "use --overwrite" in capsys.readouterr().err


def test_everything_is_shrunk_when_asked(sources, tmp_path, capsys):
    assert main(["shards", "make", str(sources), "--out", str(tmp_path / "out"), "--downscale", "2"]) == 0
    out = capsys.readouterr().out
    assert "photo: 32x24, 1 frames" in out and "32x24, 5 frames" in out
    assert main(["shards", "make", str(sources), "--out", str(tmp_path / "x"), "--downscale", "0.5"]) == 1
    assert "a factor of 0.5 enlarges: expected 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_broken_samples_are_shown_with_a_failing_status(sources, tmp_path, capsys):
    assert main(["shards", "make", str(sources), "--out", str(tmp_path / "out")]) == 0
    shard = tmp_path / "out" / "shard-00000.tar"
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b"RIFF", b"XXXX").replace(b"clip-000.json", b"clip-000.jsom"))
    assert main(["shards", "show", "--decode", str(tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "clip-000: no json" in out or "damaged" in out or "cannot read" in out


@pytest.mark.parametrize(("line", "words"), [("photo.png 2", "expected a file name"), ("photo.png\t0.5", "enlarges")])
def test_a_wrong_list_is_refused_by_line(sources, tmp_path, capsys, line, words):
    (tmp_path / "list.tsv").write_text(line + "\n")
    status = main(["shards", "make", str(sources), "--out", "x", "--downscale-list", str(tmp_path / "list.tsv")])
    assert status == 1
    assert words in capsys.readouterr().err
