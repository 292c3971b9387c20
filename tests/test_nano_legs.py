"""Legs of a training: they end in time, what is kept comes back byte for byte, and the commands parse."""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path

import pytest

from tests.test_recipes import ParseOnly

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "nano_legs.py"
TRAINING = """
import signal, pathlib, time
checkpoint = pathlib.Path("runs/nano/checkpoints/stage1/last.ckpt")
checkpoint.parent.mkdir(parents=True, exist_ok=True)
done = checkpoint.read_bytes() if checkpoint.exists() else b""
def stop(number, frame):
    checkpoint.write_bytes(done + b"stopped ")
    raise SystemExit(143)
signal.signal(signal.SIGTERM, stop)
if done:
    checkpoint.write_bytes(done + b"finished")
    model = pathlib.Path("runs/nano/stage1")
    model.mkdir(exist_ok=True)
    (model / "model.yaml").write_text("made")
    raise SystemExit(0)
time.sleep(60)
"""


@pytest.fixture
def legs(tmp_path, monkeypatch):
    """The script's functions, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    return runpy.run_path(str(SCRIPT))


def test_a_checkpoint_is_kept_in_parts_of_16_mib_and_comes_back_whole(legs, tmp_path):
    checkpoint = legs["checkpoint_of"]("stage1")
    checkpoint.parent.mkdir(parents=True)
    content = bytes(range(256)) * (2**16 + 5) * 2
    checkpoint.write_bytes(content)
    (tmp_path / "runs/nano/stage1").mkdir()
    (tmp_path / "runs/nano/stage1/model.yaml").write_text("made")
    for _ in range(2):  # again in its own place
        legs["keep"]("stage1", tmp_path / "state")
    sizes = [file.stat().st_size for file in sorted((tmp_path / "state/stage1").glob("last.ckpt.*"))]
    assert sizes == [2**24, 2**24, 5 * 2 * 256] and not list((tmp_path / "state").glob("*.new"))
    (tmp_path / "runs").rename(tmp_path / "lost")
    legs["bring_back"]("stage1", tmp_path / "state")
    assert checkpoint.read_bytes() == content
    assert (tmp_path / "runs/nano/stage1/model.yaml").read_text() == "made"
    checkpoint.write_bytes(b"newer")
    legs["bring_back"]("stage1", tmp_path / "state")
    assert checkpoint.read_bytes() == b"newer"


def test_a_leg_that_the_time_ends_goes_on_in_the_next_call_and_is_not_run_again(legs, tmp_path, monkeypatch, capsys):
    (tmp_path / "training.py").write_text(TRAINING)
    main = legs["main"]
    monkeypatch.setitem(main.__globals__, "fit_command", lambda *_: [sys.executable, "training.py"])
    monkeypatch.setitem(main.__globals__, "STOP_SECONDS", 0)
    run_for = legs["run_for"]
    monkeypatch.setitem(main.__globals__, "run_for", lambda command, seconds: run_for(command, min(seconds, 3)))
    arguments = [str(SCRIPT), "--legs", "stage1", "--minutes", "1", "--state", "state"]
    monkeypatch.setattr(sys, "argv", arguments)
    for said in ("stage1 is not done", "stage1 is done", ""):
        assert main() == 0
        assert said in capsys.readouterr().out
    assert legs["checkpoint_of"]("stage1").read_bytes() == b"stopped finished"
    assert (tmp_path / "state/stage1/model/model.yaml").is_file()


def test_a_training_that_fails_ends_the_call_with_its_status(legs, tmp_path, monkeypatch, capsys):
    main = legs["main"]
    monkeypatch.setitem(main.__globals__, "fit_command", lambda *_: [sys.executable, "-c", "raise SystemExit(7)"])
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--legs", "stage1", "--minutes", "5", "--state", "state"])
    assert main() == 7
    assert "stage1 ended with status 7" in capsys.readouterr().err and not Path("state/stage1").exists()


def test_a_stop_is_asked_for_and_waited_for(legs, tmp_path):
    (tmp_path / "training.py").write_text(TRAINING)
    assert legs["run_for"]([sys.executable, "training.py"], 3) == 128 + signal.SIGTERM


def test_every_leg_says_a_command_that_parses_and_ends_with_its_minutes(legs):
    for name, leg in legs["LEGS"].items():
        command = legs["fit_command"](name, leg, ["--data.batch_size=3"])
        assert command[1:4] == ["-m", "flashvsr", "fit"] and "--ckpt_path=last" not in command
        said = ParseOnly("fit", command[4:]).config.as_dict()
        model = said["model"]["init_args"]
        schedule = model.get("scheduler") or model["optimization"]["generator_scheduler"]
        assert schedule["init_args"]["seconds"] == 60 * leg.minutes
        assert said["trainer"]["callbacks"][-1]["init_args"]["folder"] == f"runs/nano/{name}"
        assert said["data"]["init_args"]["batch_size"] == 3
        if name.startswith("kl_"):
            assert (model["kl_weight"], said["trainer"]["max_steps"]) == (float(name[3:]), 1000)
        assert leg.minutes < 25
