import importlib
import runpy
import sys
from pathlib import Path

import pytest
import torch

from tests.upscale.standin import StandIn

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_says_what_it_takes(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    assert "usage:" in capsys.readouterr().out


@torch.no_grad()
def test_errors_of_fast_mode_are_larger_than_those_of_a_nudge(monkeypatch, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    script = importlib.import_module("fast_errors")
    monkeypatch.setattr(script, "MODES", {"fast": script.MODES["fast"]})  # bf16 takes a CPU long
    nudged, fast = script.measure(script.golden_system(), (256, 256), 0, torch.float32)
    assert nudged.velocity_error < 1e-4 < 1e-2 < fast.velocity_error < 0.1
    assert nudged.psnr > fast.psnr > 30
    assert (nudged.attention, fast.attention) == ("gather", "plain_8bit")
    assert fast.sparse_ratio == 0.75 * nudged.sparse_ratio
    assert capsys.readouterr().out.count("\n") == 4


def test_the_benchmark_of_cuts_starts_anew_where_clips_are_joined_and_gives_every_frame(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    script = importlib.import_module("cuts")
    scenes = [torch.randint(0, 255, (1, 3, 32, 48), dtype=torch.uint8, generator=seed(number)) for number in (0, 1)]
    joined = torch.cat([scene.expand(20, -1, -1, -1) for scene in scenes])
    anew, cuts = script.upscale(StandIn(), joined, look=True)
    assert (anew.shape, cuts) == ((40, 3, 128, 192), [20])
    one, cuts = script.upscale(StandIn(), joined, look=False)
    assert (one.shape, cuts) == (anew.shape, [])
    assert not torch.equal(anew[20:], one[20:])


def seed(number):
    return torch.Generator().manual_seed(number)
