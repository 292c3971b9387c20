"""What a training says of where it is."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from flashvsr.cli import main, training_progress
from flashvsr.cli.training_progress import steps_in_all, time_left
from tests.cli.test_fit import RECIPE

LINE = re.compile(r"^step (\d+)/(\d+), loss ([\d.e-]+), ([\d.e+]+) clips/s, about (\d+ (?:s|min|h).*) left$")


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Lines of a toy training with its bar, said after every batch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_progress, "LINE_EVERY", 0.0)

    def run(*more):
        Path("recipe.yaml").write_text(RECIPE.replace("enable_progress_bar: false", "enable_progress_bar: true"))
        assert main(["fit", "-c", "recipe.yaml", *more]) == 0
        return capsys.readouterr().err.splitlines()

    return run


def test_a_training_says_steps_done_and_in_all_loss_clips_a_second_and_the_time_left(said):
    lines = [found for line in said() if (found := LINE.match(line))]
    assert {(int(line[1]), int(line[2])) for line in lines} >= {(step, 6) for step in (2, 3, 5, 6)}
    assert all(float(line[3]) > 0 and float(line[4]) > 0 for line in lines)


def test_no_training_speaks_of_an_epoch_that_is_counted_to_minus_two(said):
    assert not [line for line in said() if "/-2" in line or "Epoch" in line]


def test_a_bar_that_the_recipe_names_stays_and_false_shows_none(said):
    assert not [line for line in said("--trainer.enable_progress_bar=false") if line.startswith("step ")]


def trainer(**changes):
    module = SimpleNamespace(automatic_optimization=changes.pop("automatic", True))
    said = {"max_steps": -1, "max_epochs": None, "num_training_batches": 10, "accumulate_grad_batches": 1}
    return SimpleNamespace(**(said | {"global_step": 4, "callbacks": [], "lightning_module": module} | changes))


def test_the_first_of_all_limits_ends_the_run():
    assert steps_in_all(trainer(max_steps=40)) == 40
    assert steps_in_all(trainer(max_steps=40, max_epochs=2)) == 20
    assert steps_in_all(trainer(max_epochs=2, accumulate_grad_batches=3)) == 8
    assert steps_in_all(trainer(max_epochs=2, automatic=False)) is None
    assert steps_in_all(trainer(max_epochs=2, num_training_batches=float("inf"))) is None
    assert steps_in_all(trainer(max_epochs=-1)) is None


def test_the_time_left_is_that_of_the_steps_left_unless_a_limit_of_time_comes_first():
    class Timer(training_progress.Timer):
        def __init__(self, seconds):
            self.seconds = seconds

        def time_remaining(self):
            return self.seconds

    assert time_left(trainer(max_steps=24), rate=2.0) == 10
    assert time_left(trainer(max_steps=24, callbacks=[Timer(3.0)]), rate=2.0) == 3
    assert time_left(trainer(callbacks=[Timer(3.0)]), rate=2.0) == 3
    assert time_left(trainer(), rate=2.0) is None
