"""``flashvsr evaluate --suite`` on made test sets."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.cli import main
from flashvsr.video import VideoReader

REDS4 = ("000", "011", "015", "020")


def _clips(root: Path, names, *, frames: int = 2, size: tuple[int, int] = (64, 96)) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        coarse = torch.rand(1, 3, size[0] // 4, size[1] // 4, generator=torch.Generator().manual_seed(number))
        picture = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[0].mul(255).to(torch.uint8)
        for t in range(frames):
            pixels = picture.roll(t, 2).permute(1, 2, 0).contiguous().numpy()
            Image.fromarray(pixels).save(root / name / f"{t:08d}.png")
    return root


@pytest.fixture
def reds(tmp_path):
    _clips(tmp_path / "REDS" / "train_sharp", (*REDS4, "100"))
    return str(tmp_path / "REDS")


def _run(*arguments: str) -> int:
    return main(["evaluate", "--device", "cpu", *arguments])


def _files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*"))


def test_nano_on_a_suite_gives_the_same_digits_twice(reds, tmp_path, capsys):
    metrics = ["--metrics", "psnr", "ssim", "warping", "lpips", "musiq", "dover"]
    for name in ("one", "two"):
        assert _run("--suite", "reds4", "--data", reds, *metrics, "--video", "--out", str(tmp_path / name)) == 0
    printed = capsys.readouterr().out
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :]
    titles = [cell.strip() for cell in printed.splitlines()[0].strip("|").split("|")]
    assert titles[1:] == [
        "FlashVSR-Full (paper)",
        "FlashVSR-Tiny (paper)",
        "bicubic",
        "lanczos",
        "nano (decoder alone)",
        "ground truth",
    ]
    for row in ("| LPIPS ↓", "| MUSIQ ↑", "| DOVER ↑", "| warping error ↓", "| SSIM-Y ↑"):
        assert row in printed
    assert "dover is missing: " in printed and "±" in printed
    assert (
        "4 of 4 clips in train_sharp/, all frames; LR a quarter of the size by the degradation realbasicvsr" in printed
    )
    one, two = tmp_path / "one", tmp_path / "two"
    videos = [f"videos/{clip}.mp4" for clip in REDS4]
    pictures = [f"pictures/{clip}.png" for clip in REDS4]
    assert _files(one) == [*pictures, "results.csv", "results.json", "results.md", "suite.csv", *videos]
    for file in _files(one):
        assert (one / file).read_bytes() == (two / file).read_bytes(), file


def test_side_by_side_videos_are_bicubic_ours_and_the_truth(reds, tmp_path):
    out = tmp_path / "out"
    assert _run("--suite", "reds4", "--data", reds, "--model", "--metrics", "psnr", "--video", "--out", str(out)) == 0
    with VideoReader(out / "videos" / "011.mp4") as reader:
        frames = list(reader)
        width = reader.info.width
    assert (width, len(frames)) == (2 * 96, 2), "without a model: bicubic and the truth"
    truth = torch.from_numpy(np.array(Image.open(Path(reds) / "train_sharp/011/00000001.png"))).permute(2, 0, 1)
    apart = [(side.int() - truth).abs().float().mean() for side in frames[1].pixels[:, -64:].split(96, 2)]
    assert apart[1] < apart[0] / 2, "only the codec is between the right half and the truth"


def test_a_subset_is_named_in_the_caption_and_its_figures_are_those_of_the_whole(reds, tmp_path, capsys):
    arguments = ["--suite", "reds4", "--data", reds, "--model", "--metrics", "psnr"]
    for name, more in (("all", []), ("part", ["--clips", "015", "000"])):
        assert _run(*arguments, *more, "--out", str(tmp_path / name)) == 0
    assert "2 of 4 clips" in capsys.readouterr().out
    rows = {}
    for name in ("all", "part"):
        with (tmp_path / name / "results.csv").open() as file:
            rows[name] = {(row["clip"], row["method"]): row for row in csv.DictReader(file)}
    assert {clip for clip, _ in rows["part"]} == {"000", "015"}
    assert all(rows["all"][key] == row for key, row in rows["part"].items()), "seeds are the clips' own"
    assert _run(*arguments, "--frames", "1", "--crop", "64", "64") == 0
    assert "the first frame of each, the middle 64x64 pixels" in capsys.readouterr().out


def test_a_suite_is_not_shrunk_and_other_clips_are(reds, tmp_path):
    out = tmp_path / "out"
    assert _run("--suite", "reds4", "--data", reds, "--model", "--metrics", "psnr", "--out", str(out)) == 0
    settings = json.loads((out / "results.json").read_text())["settings"]
    assert (settings["frames"], settings["short_side"], settings["downscale"]) == (0, 0, 1.0)
    assert settings["suite"] == "reds4" and settings["metrics"] == ["psnr"]
    photo = f"{reds}/train_sharp/000/00000000.png"
    assert _run("--data", photo, "--model", "--downscale", "1", "--metrics", "psnr", "--out", str(tmp_path / "2")) == 0
    settings = json.loads((tmp_path / "2" / "results.json").read_text())["settings"]
    assert (settings["frames"], settings["short_side"], settings["downscale"]) == (32, 540, 1.0)
    assert not (tmp_path / "2" / "suite.csv").exists()


def test_videolq_has_no_ground_truth_and_its_clips_are_not_degraded(tmp_path, capsys):
    root = _clips(tmp_path / "VideoLQ", [f"{number:03d}" for number in range(50)], size=(16, 24))
    (tmp_path / "scorer.py").write_text("def level(frames):\n    return frames.float().mean().item()\n")
    out = tmp_path / "out"
    arguments = ["--suite", "videolq", "--data", str(root), "--clips", "000", "049", "--model", "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        assert _run(*arguments, "--dover", "scorer:level", "--video", "--degrade", "mild") == 0
    printed = capsys.readouterr().out
    assert "2 of 50 clips, all frames; the LR clips as they are." in printed
    for row in ("| NIQE ↓", "| MUSIQ ↑", "| CLIPIQA ↑", "| DOVER ↑"):
        assert row in printed
    assert "PSNR ↑" not in printed and "ground truth |" not in printed
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["clip"], row["method"]) for row in rows] == [
        (c, m) for c in ("000", "049") for m in ("bicubic", "lanczos")
    ]
    frames = [Image.open(root / "000" / f"{t:08d}.png").resize((96, 64), Image.Resampling.BICUBIC) for t in range(2)]
    level = sum(
        torch.frombuffer(bytearray(frame.tobytes()), dtype=torch.uint8).float().mean().item() for frame in frames
    )
    assert float(rows[0]["dover"]) == pytest.approx(level / 2, abs=1e-3)
    assert {"pictures/000.png", "videos/049.mp4"} <= set(_files(out))


def test_a_scorer_that_is_named_is_used_whatever_else_is_measured(reds, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_scorer.py").write_text("def score(frames):\n    return 12.5\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert _run("--suite", "reds4", "--data", reds, "--model", "--metrics", "psnr", "--dover", "my_scorer:score") == 0
    assert "| 12.500 ±0.000 |" in capsys.readouterr().out


def test_metrics_that_need_a_ground_truth_are_named_as_missing_without_one(tmp_path, capsys):
    root = _clips(tmp_path / "mine", ["a"], size=(16, 16))
    assert _run("--suite", str(root), "--lr-only", "--model", "--metrics", "psnr", "niqe") == 0
    printed = capsys.readouterr().out
    assert "| PSNR ↑" in printed and "psnr is missing: there is no ground truth" in printed
    assert "which has no interval" in printed and "The paper has no figures for these clips" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "udm10", "--data", "{reds}"], "is not laid out as UDM10 is\nexpected: 10 clips"),
        (["--suite", "reds5", "--data", "{reds}"], "suites are reds4, youhq40, spmcs, udm10, videolq, or a folder"),
        (["--suite", "reds4"], "name it with --data"),
        (["--suite", "reds4", "--data", "{reds}", "{reds}"], "--suite takes one folder with --data, got 2"),
        (["--suite", "reds4", "--data", "{reds}", "--clips", "001"], "there is no clip '001' in reds4; there are 000"),
        (["--suite", "{reds}/train_sharp", "--lr-only", "--downscale", "2"], "LR clips are taken as they are"),
        (["--data", "{reds}", "--clips", "000"], "belong to --suite"),
        ([], "there is nothing to evaluate on"),
        (["--suite", "reds4", "--data", "{reds}", "--dover", "nothing"], "a scorer is named as MODULE:FUNCTION"),
        (["--suite", "reds4", "--data", "{reds}", "--frames", "-1"], "frames is at least 1, got -1"),
    ],
)
def test_what_makes_no_sense_is_one_clear_error(reds, tmp_path, capsys, arguments, message):
    out = tmp_path / "out"
    assert _run(*(text.replace("{reds}", reds) for text in arguments), "--model", "--out", str(out)) == 1
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and shown.out == "" and not out.exists()


def test_results_of_a_suite_are_not_overwritten_unasked(reds, tmp_path, capsys):
    arguments = ["--suite", "reds4", "--data", reds, "--model", "--metrics", "psnr", "--out", str(tmp_path / "out")]
    assert _run(*arguments) == 0
    before = (tmp_path / "out" / "suite.csv").stat().st_mtime_ns
    assert _run(*arguments) == 1 and "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "suite.csv").stat().st_mtime_ns == before
