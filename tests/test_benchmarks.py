import importlib
import runpy
import sys
from pathlib import Path

import pytest
import torch

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
