"""`flashvsr fit`: what it writes, how it goes on, and what it says of a wrong recipe."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch  # noqa: F401 - its logger keeps the standard error of now, not that of the first test
import pytest
import torch
from lightning.pytorch import Trainer

from flashvsr.cli import main
from flashvsr.cli.recipe_errors import shorten
from flashvsr.models.folder import read_model_folder
from flashvsr.models.loading import component
from tests.data.test_shards import write_tar

TOYS = str(Path(__file__).parent)
sys.path.insert(0, TOYS)

RECIPE = """
seed_everything: 0
trainer:
  accelerator: cpu
  max_steps: 6
  log_every_n_steps: 1
  num_sanity_val_steps: 0
  enable_progress_bar: false
  enable_model_summary: false
  logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: logs, name: toy}}
  callbacks:
    - class_path: flashvsr.training.callbacks.WeightAverage
      init_args: {decay: 0.5}
    - class_path: flashvsr.training.callbacks.LastCheckpoint
      init_args: {dirpath: checkpoints}
    - class_path: flashvsr.training.callbacks.Throughput
    - class_path: flashvsr.models.lit.ExportModelFolder
      init_args: {folder: made, components: {decoder: decoder}}
model:
  class_path: toy_stage.ToyStage
  init_args:
    decoder: {class_path: flashvsr.decoders.TinyDecoder, init_args: {channels: [8, 8, 8, 8]}}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-2}}
    scheduler: {class_path: flashvsr.training.WarmupCosine, init_args: {steps: "${.....trainer.max_steps}", warmup: 1}}
data: {class_path: toy_stage.ToyData, init_args: {epoch_batches: 3}}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The toy recipe in an empty folder; changed by (old, new) pairs."""
    monkeypatch.chdir(tmp_path)

    def write(*changes):
        text = RECIPE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        Path("recipe.yaml").write_text(text)
        return ["fit", "-c", "recipe.yaml"]

    return write


def logged(name, version=0):
    """Values of one log, in their order: after a resume Lightning counts steps from one more."""
    rows = csv.DictReader(Path(f"logs/toy/version_{version}/metrics.csv").read_text().splitlines())
    return [float(row[name]) for row in rows if row[name]]


def losses(version=0):
    return logged("train/loss", version)


def error_of(capsys, arguments):
    """What the command writes to standard error when it refuses."""
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    assert status in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if "Seed set" not in line]
    assert len(lines) <= 3 and all(len(line) < 400 for line in lines), lines
    assert not Path("logs").exists() and not Path("made").exists()
    return "\n".join(lines)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """Losses and weights of the toy recipe when nothing stops it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        Path("recipe.yaml").write_text(RECIPE)
        assert main(["fit", "-c", "recipe.yaml"]) == 0
        return losses(), component("made", "decoder").state_dict()


def test_a_run_resumed_after_it_stopped_has_the_same_losses(recipe, whole_run):
    whole, weights = whole_run
    assert len(whole) == 6 and min(whole) < whole[0]
    stopped = [*recipe(), "--trainer.max_epochs=1"]
    assert main(stopped) == 0
    assert main([*recipe(), "--ckpt_path=last"]) == 0
    assert losses() == whole[:3] and losses(1) == whole[3:]
    resumed = component("made", "decoder").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


def test_a_run_stopped_by_the_user_goes_on_from_its_last_checkpoint(recipe, whole_run):
    whole, _ = whole_run
    assert main([*recipe(), "--model.stop_at=5"]) == 130  # two steps into the second epoch
    assert main([*recipe(), "--ckpt_path=checkpoints/last.ckpt"]) == 0
    assert losses() == whole[:5] and losses(1) == whole[3:]


@pytest.mark.parametrize(  # in the first epoch, at its end, in the second
    ("name", "status", "step"), [*(("SIGINT", 130, step) for step in (0, 1, 2, 4)), ("SIGTERM", 143, 1)]
)
def test_a_signal_leaves_a_checkpoint_of_its_step_and_the_run_goes_on_the_same(recipe, whole_run, name, status, step):
    whole, weights = whole_run
    before = signal.getsignal(signal.Signals[name])
    assert main([*recipe(), f"--model.kill_at={step}", f"--model.kill_with={name}"]) == status
    assert signal.getsignal(signal.Signals[name]) == before
    assert losses() == whole[: step + 1]
    assert torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"] == step + 1
    assert main([*recipe(), "--ckpt_path=last"]) == 0
    assert losses(1) == whole[step + 1 :]
    resumed = component("made", "decoder").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


@pytest.mark.parametrize("minutes", [0, 10])
def test_a_checkpoint_is_written_before_the_first_step_and_as_often_as_asked(recipe, whole_run, minutes):
    every = recipe(("{dirpath: checkpoints}", f"{{dirpath: checkpoints, minutes: {minutes}}}"))
    whole, _ = whole_run
    assert main([*every, "--model.stop_at=2"]) == 130  # in the middle of a step: nothing is saved then
    kept = torch.load("checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert kept == (0 if minutes else 2)
    assert main([*every, "--ckpt_path=last"]) == 0
    assert losses(1) == whole[kept:]


def test_a_run_killed_in_the_middle_of_training_goes_on_to_the_same_losses_and_weights(recipe, whole_run):
    whole, weights = whole_run
    command = [sys.executable, "-m", "flashvsr", *recipe(), "--model.kill_at=5"]  # two steps into the second epoch
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": TOYS})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not Path("made").exists()
    assert main([*recipe(), "--ckpt_path=last"]) == 0
    assert losses(len(list(Path("logs/toy").iterdir())) - 1) == whole[3:]
    resumed = component("made", "decoder").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


@pytest.mark.slow  # two processes that import Lightning, twice
def test_ctrl_c_that_reaches_two_processes_at_once_leaves_one_whole_checkpoint_to_go_on_from(recipe):
    """As a terminal sends it: to the launcher and to the process that it has started."""
    two = ["--trainer.devices=2", "--trainer.strategy=ddp_find_unused_parameters_true", "--trainer.max_steps"]
    command = [sys.executable, "-m", "flashvsr", *recipe(), *two]
    environment = {**os.environ, "PYTHONPATH": TOYS, "OMP_NUM_THREADS": "1"}
    checkpoint = Path("checkpoints/last.ckpt")
    with Path("said").open("w") as said:
        run = subprocess.Popen(
            [*command, "100000"], env=environment, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while not checkpoint.exists() or not step_of(checkpoint):  # the first one is written before the first step
            assert run.poll() is None and time.monotonic() < deadline, Path("said").read_text()
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGINT)
        run.communicate(timeout=120)  # until both have let go of the pipe
    assert run.returncode == 130, Path("said").read_text()
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.ckpt"]
    step = step_of(checkpoint)
    assert 0 < step == len(losses()) < 100000
    subprocess.run([*command, str(step + 4), "--ckpt_path=last"], env=environment, check=True, timeout=300)
    assert step_of(checkpoint) == step + 4 and len(losses(1)) == 4


def step_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["global_step"]


def test_ctrl_c_leaves_the_averaged_weights_in_the_model_folder(recipe):
    assert main([*recipe(), "--model.stop_at=3"]) == 130
    averaged = torch.load("checkpoints/last.ckpt", weights_only=True)["state_dict"]
    written = component("made", "decoder").state_dict()
    assert all(torch.equal(value, averaged[f"decoder.{name}"]) for name, value in written.items())


def test_a_limit_of_time_ends_a_run_which_a_later_limit_lets_go_on(recipe):
    arguments = [*recipe(), "--trainer.max_steps=1000000"]

    def run(seconds, *more):
        assert main([*arguments, f"--trainer.max_time=00:00:00:{seconds:02}", *more]) == 0
        checkpoint = torch.load("checkpoints/last.ckpt", weights_only=True)
        written = component("made", "decoder").state_dict()
        assert all(torch.equal(value, checkpoint["state_dict"][f"decoder.{name}"]) for name, value in written.items())
        return checkpoint["global_step"]

    steps = run(1)
    assert 0 < steps < 1000000
    assert run(2, "--ckpt_path=last") > steps


def test_the_model_folder_says_how_the_network_is_built(recipe):
    main(recipe())
    part = read_model_folder("made").component("decoder")
    assert part.class_path == "flashvsr.decoders.TinyDecoder"
    assert list(part.init_args["channels"]) == [8, 8, 8, 8]


def test_a_component_of_one_run_starts_the_next(recipe):
    main(recipe())
    made = "{class_path: flashvsr.decoders.TinyDecoder, init_args: {channels: [8, 8, 8, 8]}}"
    source = "{class_path: flashvsr.models.component, init_args: {folder: made, name: decoder}}"
    changes = ((made, source), ("folder: made, comp", "folder: next, comp"), ("dirpath: checkpoints", "dirpath: other"))
    assert main([*recipe(*changes), "--trainer.max_steps=3", "--model.optimizer.lr=0"]) == 0
    first, second = (component(folder, "decoder").state_dict() for folder in ("made", "next"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_averages_are_validated_and_written_under_manual_optimization(recipe):
    assert main([*recipe(("trainer:", "trainer:\n  max_epochs: 1")), "--model.manual=true"]) == 0
    checkpoint = torch.load("checkpoints/last.ckpt", weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.startswith("decoder."))
    averaged, current = checkpoint["state_dict"][name], checkpoint["current_model_state"][name]
    assert not torch.equal(averaged, current)
    assert logged("val/first")[-1] == pytest.approx(averaged.flatten()[0].item(), abs=1e-7)
    written = component("made", "decoder").state_dict()[name.removeprefix("decoder.")]
    assert torch.equal(written, averaged)


def test_throughput_is_logged(recipe):
    main(recipe())
    samples, frames = logged("train/samples_per_s"), logged("train/frames_per_s")
    assert len(samples) >= 3 and min(samples) > 0
    assert frames == pytest.approx([5 * rate for rate in samples])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("channels:", "chanels:"), ("model.decoder", "'chanels'", "did you mean 'channels'", "latents_per_pass")),
        (("TinyDecoder", "TinyDecodr"), ("model.decoder", "flashvsr.decoders.TinyDecodr")),
        (("lr: 1.0e-2", "lr: fast"), ("model.optimizer.lr", "float", "fast")),
        (("[8, 8, 8, 8]", "[8, 8, 8, x]"), ("model.decoder.channels", "int", "x")),
        (("toy_stage.ToyStage", "toy_stage.Toy"), ("model", "toy_stage.Toy")),
        (("max_steps: 6", "max_stepss: 6"), ("trainer", "max_stepss")),
        (("max_steps: 6", "max_steps: six"), ("trainer.max_steps", "int", "six")),
        (("data: {", "dta: {"), ("dta",)),
        (("epoch_batches:", "batches:"), ("toy_stage.ToyData", "'batches'", "epoch_batches")),
        (("{folder: made", "{foldr: made"), ("ExportModelFolder", "'foldr'")),
        (("components: {decoder", "components: {dekoder"), ("dekoder", "projection, dit, decoder, vae")),
        (("{decoder: decoder}", "{decoder: other}"), ("'other'", "class_path")),
        (("warmup: 1}", "warmup: 6}"), ("model.scheduler", "WarmupCosine", "got 6 and 6")),
        (
            (
                "  max_steps: 6",
                "  max_steps: 6\n  strategy: {class_path: lightning.pytorch.strategies.ModelParallelStrategy}",
            ),
            ("WeightAverage cannot average the sharded weights",),
        ),
        (("lr: 1.0e-2", "lr: -1.0"), ("model.optimizer", "AdamW", "learning rate", "-1.0")),
    ],
)
def test_a_wrong_recipe_is_one_short_error_before_any_work(recipe, capsys, change, said):
    message = error_of(capsys, recipe(change))
    assert message.startswith("flashvsr fit: error: ")
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--trainr.max_steps=3"], "trainr"),
        (["--trainer.max_stpes=3"], "did you mean trainer.max_steps?"),
        (["--model.optimizer.lrr=3"], "torch.optim.AdamW takes no 'lrr'; did you mean 'lr'?"),
        (["--model.widht=3"], "'widht'"),
        (["--ckpt_path=missing.ckpt"], "there is no missing.ckpt"),
        (["--ckpt_path=last"], "there is no last.ckpt in"),
        (["-c", "missing.yaml"], "missing.yaml"),
        (
            ["--model.decoder=flashvsr.models.component", "--model.decoder.folder=no", "--model.decoder.name=dit"],
            "'no'",
        ),
    ],
)
def test_a_wrong_argument_is_one_short_error_before_any_work(recipe, capsys, more, said):
    assert said in error_of(capsys, [*recipe(), *more])


@pytest.mark.parametrize("logger", ["false", "true", "null"])
def test_a_recipe_whose_folders_are_named_after_its_logger_keeps_it_or_says_so_in_a_line(recipe, capsys, logger):
    arguments = recipe(("{dirpath: checkpoints}", '{dirpath: "made/${....logger.init_args.name}"}'))
    said = error_of(capsys, [*arguments, "--trainer.logger", logger])
    assert len(said.splitlines()) == 1
    assert "trainer.callbacks[1].init_args.dirpath" in said and "logger.init_args.name" in said


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--data.epoch_batches=2", "data.epoch_batches: 3 -> 2"),
        ("--trainer.precision=bf16-mixed", "trainer.precision: 32-true -> bf16-mixed"),
    ],
)
def test_a_run_does_not_go_on_with_other_batches_or_another_precision(recipe, capsys, argument, said):
    arguments = [*recipe(("accelerator: cpu", "accelerator: cpu\n  precision: 32-true")), "--ckpt_path=last"]
    assert main([*arguments[:-1], "--trainer.max_epochs=1"]) == 0
    capsys.readouterr()
    assert main([*arguments, argument]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(error) == 1 and said in error[0]
    assert main(["validate", *arguments[1:], argument]) == 0
    assert main(arguments) == 0


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(500)])
def test_a_damaged_checkpoint_is_one_short_error(recipe, capsys, content):
    Path("bad.ckpt").write_bytes(content)
    assert "bad.ckpt is damaged or no checkpoint" in error_of(capsys, [*recipe(), "--ckpt_path=bad.ckpt"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("folder: made, comp", "folder: new, comp"), "checkpoints holds checkpoints of another run"),
        (("dirpath: checkpoints", "dirpath: other"), "made exists"),
    ],
)
def test_another_runs_results_are_not_overwritten(recipe, capsys, change, said):
    assert main([*recipe(), "--trainer.max_steps=3"]) == 0
    before = [Path(file).read_bytes() for file in ("made/decoder.safetensors", "checkpoints/last.ckpt")]
    capsys.readouterr()
    assert main(recipe(change)) == 1
    assert said in capsys.readouterr().err
    assert [Path(file).read_bytes() for file in ("made/decoder.safetensors", "checkpoints/last.ckpt")] == before


def test_the_export_stands_after_the_averaging_or_is_refused(recipe, capsys):
    text = RECIPE
    start = text.index("    - class_path: flashvsr.training.callbacks.WeightAverage")
    end = text.index("    - class_path: flashvsr.training.callbacks.LastCheckpoint")
    moved = text[:start] + text[end:].replace("model:\n", text[start:end] + "model:\n", 1)
    Path("recipe.yaml").write_text(moved)
    assert "put it after" in error_of(capsys, ["fit", "-c", "recipe.yaml"])


def test_data_that_cannot_be_set_up_is_a_short_error(recipe, capsys):
    assert main([*recipe(), "--data.broken=setup"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert "flashvsr fit: error: no such data" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_overfit_batches_is_refused_with_shards_and_works_with_other_data(recipe, capsys):
    shards = (
        "{class_path: flashvsr.data.lit.ShardDataModule, init_args: {train: none, crop: 64, degradation: {class_path:"
        " flashvsr.data.degrade.BatchDegradation}}}"
    )
    toy = "{class_path: toy_stage.ToyData, init_args: {epoch_batches: 3}}"
    assert main([*recipe((toy, shards)), "--trainer.overfit_batches=1"]) == 1
    assert "error: overfit_batches does not work with shards" in capsys.readouterr().err
    assert main([*recipe(), "--trainer.overfit_batches=1"]) == 0


def test_photographs_that_the_shards_lack_are_told_before_the_training_starts(recipe, capsys, monkeypatch):
    write_tar("videos.tar", {"x.mp4": b"v", "x.json": b'{"width": 64, "height": 64, "frames": 9, "fps": "25"}'})
    shards = (
        "{class_path: flashvsr.data.lit.ShardDataModule, init_args: {train: videos.tar, crop: 64, photos:"
        " {images_per_batch: 1}, degradation: {class_path: flashvsr.data.degrade.BatchDegradation}}}"
    )
    toy = "{class_path: toy_stage.ToyData, init_args: {epoch_batches: 3}}"
    monkeypatch.setattr(Trainer, "fit", lambda *unused, **options: pytest.fail("the training was started"))
    assert main(recipe((toy, shards))) == 1
    assert "hold 1 videos and 0 photographs" in capsys.readouterr().err


def test_an_error_in_the_middle_of_training_keeps_its_traceback(recipe):
    with pytest.raises(ValueError, match="no such data"):
        main([*recipe(), "--data.broken=batch"])


def test_shards_that_cannot_be_read_in_the_middle_of_training_are_a_short_error(recipe, capsys):
    assert main([*recipe(), "--data.broken=shards"]) == 1
    said = capsys.readouterr().err
    assert said.endswith("flashvsr fit: error: cannot read https://host/a.tar: 403\ncheck the address\n")
    assert "Traceback" not in said


def test_print_config_prints_and_trains_nothing(recipe, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*recipe(), "--trainer.max_steps=77", "--print_config"])
    assert "steps: 77" in capsys.readouterr().out
    assert not Path("logs").exists()


def test_validate_runs_on_a_checkpoint(recipe, capsys):
    main(recipe())
    assert main(["validate", *recipe()[1:], "--ckpt_path=checkpoints/last.ckpt"]) == 0
    assert "val/first" in capsys.readouterr().out


def test_an_error_of_another_form_is_left_alone():
    assert shorten("no such file\nin two lines") == "no such file\nin two lines"
