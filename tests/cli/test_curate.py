from __future__ import annotations

import os
import sys
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

import flashvsr
from flashvsr.cli import main
from flashvsr.curate import CurateError
from flashvsr.video import VideoInfo, VideoWriter

RECIPES = Path(flashvsr.__file__).parents[1] / "recipes"


def picture(seed, height, width):
    """`[3, h, w]` uint8, another for every seed."""
    noise = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0] * 255).to(torch.uint8)


def write_pan(path, scene):
    """A camera that moves over a picture, for 1.2 s."""
    _, height, width = scene.shape
    info = VideoInfo(width, height, Fraction(25), Fraction(1, 90000))
    with VideoWriter(path, width=width, height=height, info=info) as writer:
        for number in range(30):
            writer.write(scene.roll(2 * number, 2), Fraction(number, 25))


@pytest.fixture
def footage(tmp_path):
    """A clip that moves, one that is small."""
    folder = tmp_path / "raw"
    folder.mkdir()
    write_pan(folder / "good.mp4", picture(0, 480, 640))
    write_pan(folder / "small.mp4", picture(0, 96, 128))
    return folder


def test_the_default_recipe_runs_without_a_checkout_and_says_what_it_did(footage, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["curate", str(footage), "--out", "shards", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "small.mp4: 0 of 1 kept so far (probe: short_side 96 < 480 pixels)" in said
    assert "\nkept " in said
    assert "seconds of work: probe " in said
    assert "1 shards, " in said
    assert f"report: {tmp_path.name}" in said or "report: shards" in said
    assert len(list((tmp_path / "shards" / "train").glob("*.tar"))) == 1
    assert (tmp_path / "shards" / "report.html").is_file()


@pytest.mark.slow  # a step of training
def test_training_starts_from_the_result_with_an_unchanged_recipe(footage, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(1, 4):
        write_pan(footage / f"good_{number}.mp4", picture(number, 480, 640))
        photo = picture(10 + number, 480, 640).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(photo).save(footage / f"photo_{number}.png")
    assert main(["curate", str(footage), "--out", "shards", "--workers", "0"]) == 0
    assert list(Path("shards/train").glob("*.tar"))
    assert list(Path("shards/val").glob("*.tar"))
    one_step = ["--trainer.max_steps=1", "--model.scheduler.warmup=0", "--data.batch_size=1", "--data.epoch.batches=1"]
    here = [
        "--trainer.accelerator=cpu",
        "--trainer.precision=32-true",
        "--data.loader.workers=0",
    ]  # bf16 is slow on a CPU
    here += ["--data.frames=9", "--data.crop=128", "--trainer.enable_progress_bar=false"]
    assert main(["fit", "-c", str(RECIPES / "nano" / "vae.yaml"), *one_step, *here]) == 0
    assert (Path("runs/nano/vae") / "vae.safetensors").is_file()


def test_nothing_kept_ends_with_an_error_and_still_leaves_a_report(footage, tmp_path, capsys):
    recipe = tmp_path / "strict.yaml"
    recipe.write_text("thresholds: {short_side: {min: 2160, unit: pixels}}")
    arguments = ["curate", str(footage), "--out", str(tmp_path / "out"), "-c", str(recipe), "--workers", "0"]
    assert main(arguments) == 1
    said = capsys.readouterr()
    assert "flashvsr: nothing is kept of 2 sources\nstage " in said.err
    assert "2 x probe: short_side < 2160 pixels" in said.err
    assert (tmp_path / "out" / "report.html").is_file()
    assert main(arguments) == 1
    assert "use --resume" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["imagehash", "scenedetect"])
def test_a_missing_extra_is_named(footage, tmp_path, capsys, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name.startswith("flashvsr.curate")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["curate", str(footage), "--out", str(tmp_path / "out"), "--workers", "0"]) == 1
    assert "pip install 'flashvsr[curate]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_ray_is_named_with_both_ways_out(footage, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["curate", str(footage), "--out", str(tmp_path / "out"), "--workers", "2"]) == 1
    assert "pip install 'flashvsr[curate]', or use --workers 0" in capsys.readouterr().err


def test_workers_are_counted_where_the_system_does_not_tell_which_cores_are_ours(tmp_path, monkeypatch):
    asked = []

    def curate(*arguments, workers, **options):
        asked.append(workers)
        raise CurateError("enough")

    monkeypatch.setattr(import_module("flashvsr.curate.run"), "curate", curate)
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    assert main(["curate", str(tmp_path), "--out", str(tmp_path / "shards")]) == 1
    assert asked == [os.cpu_count()]


def test_windows_is_refused_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(import_module("flashvsr.curate.run"), "PLATFORM", "win32")
    assert main(["curate", str(tmp_path), "--out", str(tmp_path / "shards"), "--workers", "0"]) == 1
    assert "runs on Linux and macOS only" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()
