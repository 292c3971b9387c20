import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_says_what_it_takes(script):
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", FOLDER / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_efficiency_is_what_a_gpu_among_several_does_of_what_it_does_alone(scaling):
    rows = [
        {"recipe": "a", "gpus": 2, "clips_per_second": 3.0},
        {"recipe": "a", "gpus": 1, "clips_per_second": 2.0},
        {"recipe": "b", "gpus": 2, "clips_per_second": 3.0},
        {"recipe": "b", "gpus": 1, "error": "status 1"},
    ]
    scaling.add_efficiency(rows)
    assert [row.get("efficiency") for row in rows] == [0.75, 1.0, None, None]


@pytest.mark.slow  # six processes that import Lightning, one after another and two at once
def test_scaling_trains_its_recipes_at_toy_size_on_one_process_and_on_two(tmp_path):
    out = tmp_path / "scaling.json"
    command = [sys.executable, FOLDER / "scaling.py", "--tiny", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [(row["recipe"].partition("/")[0], row["gpus"], row["strategy"]) for row in rows] == [
        ("nano", 1, "DDP"), ("nano", 2, "DDP"), ("wan_1b", 1, "FSDP2"), ("wan_1b", 2, "FSDP2")
    ]  # fmt: skip
    for one, two in (rows[:2], rows[2:]):
        assert two["clips_per_step"] == 2 * one["clips_per_step"]
        assert one["efficiency"] == 1 and two["efficiency"] > 0
        assert len(one["seconds_of_windows"]) == len(two["seconds_of_windows"]) > 0
