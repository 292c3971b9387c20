from __future__ import annotations

import sys
from fractions import Fraction

import pytest
import torch

from flashvsr.cli import main
from flashvsr.data import VideoInfo, VideoWriter


@pytest.fixture
def footage(tmp_path):
    """A clip that moves, one that is small."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, height, width in (("good", 480, 640), ("small", 96, 128)):
        noise = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(0))
        scene = (torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0] * 255).to(torch.uint8)
        info = VideoInfo(width, height, Fraction(25), Fraction(1, 90000))
        with VideoWriter(folder / f"{name}.mp4", width=width, height=height, info=info) as writer:
            for number in range(30):
                writer.write(scene.roll(2 * number, 2), Fraction(number, 25))
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
    for name in [name for name in sys.modules if name.startswith("flashvsr.data.curate")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["curate", str(footage), "--out", str(tmp_path / "out"), "--workers", "0"]) == 1
    assert "pip install 'flashvsr[curate]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_ray_is_named_with_both_ways_out(footage, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["curate", str(footage), "--out", str(tmp_path / "out"), "--workers", "2"]) == 1
    assert "pip install 'flashvsr[curate]', or use --workers 0" in capsys.readouterr().err
