"""Every shipped recipe on two processes, and one that is killed again and again, through the command line."""

from __future__ import annotations

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flashvsr.cli import main
from flashvsr.models.folder import read_model_folder
from flashvsr.models.loading import component
from tests.data.shard_server import ShardServer
from tests.toy_recipes import RECIPES, TOY, TRAINED, make_toy_shards, make_wan_stages, on_two_processes, toy_arguments

LAUNCHERS = {
    "lightning": ["-m", "flashvsr"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "flashvsr"],
}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return make_toy_shards(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def nano_stages(shards, tmp_path_factory):
    """The model folders that the recipes of nano read, trained at toy size."""
    folder = tmp_path_factory.mktemp("stages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for recipe in ("vae", "autoencoder", "stage1_joint", "stage2_sparse_causal"):
            assert main(toy_arguments(f"nano/{recipe}", shards)) == 0
    return folder


@pytest.fixture(scope="module")
def wan_1b_stages(tmp_path_factory):
    """Likewise of wan_1b, untrained."""
    folder = tmp_path_factory.mktemp("stages")
    make_wan_stages(folder)
    return folder


def copy_stages(source: Path, target: Path, but: Path) -> None:
    """Copy model folders, but for the one that the recipe makes."""
    for file in source.rglob("model.yaml"):
        if file.parent != source / but:
            shutil.copytree(file.parent, target / file.parent.relative_to(source))


def state_of(checkpoint: Path) -> dict:
    """What all processes share of a checkpoint."""
    file = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    return torch.load(file, weights_only=True)


def pictures_of(logs: Path) -> int:
    """How many strips of the validation were written, as files or to TensorBoard."""
    boards = [EventAccumulator(str(folder)) for folder in logs.glob("version_*")]
    tags = [board.Reload().Tags()["images"] for board in boards]
    return len(list(logs.glob("version_*/pictures/*.png"))) + sum(
        tag.startswith("val/strip") for each in tags for tag in each
    )


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder."""
    parts = read_model_folder(folder).components
    return {f"{part}.{name}": value for part in parts for name, value in component(folder, part).state_dict().items()}


def test_every_recipe_that_trains_is_tried_on_two_processes():
    assert set(TOY) == set(TRAINED)


def test_a_recipe_trains_on_two_processes(shards, tmp_path):
    """The cheapest one, on forked processes, which need not import anything; forked from one that never trained."""
    two = on_two_processes("nano/vae", "ddp_fork") | {"data.epoch.batches": "1"}
    command = [sys.executable, "-m", "flashvsr", *toy_arguments("nano/vae", shards, **two)]
    done = subprocess.run(command, cwd=tmp_path, env=ONE_THREAD, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in done.stderr
    run = tmp_path / "runs/nano"
    assert state_of(run / "checkpoints/vae/last.ckpt")["global_step"] == 2
    assert pictures_of(run / "logs/vae")
    assert read_model_folder(run / "vae").components.keys() == {"vae"}


@pytest.mark.slow  # three times two processes that import Lightning
@pytest.mark.parametrize("recipe", TRAINED)
def test_every_recipe_trains_on_two_processes_and_goes_on_as_if_it_had_not_stopped(request, shards, tmp_path, recipe):
    family, _, name = recipe.partition("/")
    name = name.partition("_")[0]
    made, sharded = Path("runs", family, name), "trainer.strategy.data_parallel_size" in TOY[recipe]

    def train(folder, launcher, steps, *more):
        said = {"trainer.max_steps": str(steps), "scheduled_steps": "6", **on_two_processes(recipe)}
        command = [sys.executable, *LAUNCHERS[launcher], *toy_arguments(recipe, shards, **said), *more]
        options = {"capture_output": True, "text": True, "timeout": 300}
        done = subprocess.run(command, cwd=folder, env=ONE_THREAD, **options)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "MEMBER: 2/2" in done.stderr or sharded
        checkpoint = folder / made.parent / "checkpoints" / name / "last.ckpt"
        assert checkpoint.is_dir() == sharded
        assert len(list(checkpoint.glob("__*.distcp"))) == 2 * sharded  # a share of each process
        state = state_of(checkpoint)
        assert state["global_step"] == steps
        assert ("current_model_state" in state) == ("WeightAverage" in (RECIPES / f"{recipe}.yaml").read_text())

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        copy_stages(request.getfixturevalue(f"{family}_stages"), folder, but=made)
    train(whole, "lightning", 6)
    train(stopped, "torchrun", 3)  # in the middle of an epoch, and of the steps of a batch
    train(stopped, "lightning", 6, "--ckpt_path=last")
    assert pictures_of(whole / made.parent / "logs" / name)
    expected, resumed = weights_of(whole / made), weights_of(stopped / made)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[key]) for key, value in expected.items())


@pytest.mark.slow  # trains the stages before it first
def test_stage_3_is_refused_under_a_ddp_that_does_not_look_for_unused_parameters(
    nano_stages, shards, monkeypatch, capsys
):
    monkeypatch.chdir(nano_stages)
    two = {"trainer.devices": "2", "trainer.strategy": "ddp"}
    assert main(toy_arguments("nano/stage3_one_step", shards, **two)) == 1
    assert "ddp_find_unused_parameters_true" in capsys.readouterr().err
    assert not Path("runs/nano/checkpoints/stage3").exists()


def stop_when_saved_often(process, times, number, checkpoint, delay=0.0):
    """Send a signal some seconds after a checkpoint was written so many times."""
    seen = set()
    while len(seen) < times and process.poll() is None:
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(number)
    return process.wait(timeout=120)


def result_of(folder):
    """The losses of the last log of a run, and the weights that it left."""
    logs = sorted(folder.glob("runs/nano/logs/vae/version_*"), key=lambda log: int(log.name.rpartition("_")[2]))
    rows = csv.DictReader((logs[-1] / "metrics.csv").read_text().splitlines())
    return [row["train/loss"] for row in rows if row.get("train/loss")], component(folder / "runs/nano/vae", "vae")


@pytest.mark.slow  # two processes that import Lightning, three times
def test_two_processes_that_stream_shards_and_go_on_train_as_two_that_read_a_folder(shards, tmp_path):
    """From a server that cuts every third connection, with a folder of whole shards that both share."""
    two = {**on_two_processes("nano/vae"), "data.loader.workers": "1", "scheduled_steps": "6"}

    def train(folder, steps, *more, **where):
        folder.mkdir(exist_ok=True)
        arguments = toy_arguments("nano/vae", shards, **two, **where, **{"trainer.max_steps": str(steps)})
        command = [sys.executable, "-m", "flashvsr", *arguments, *more]
        done = subprocess.run(command, cwd=folder, env=ONE_THREAD, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        return result_of(folder)

    losses, whole = train(tmp_path / "folder", 6)
    with ShardServer(shards) as server:
        server.fault = lambda name, number: ("cut", 500) if number % 3 == 1 else None
        urls = f"{server.url}/shard-{{00000..{len(list(shards.glob('*.tar'))) - 1:05d}}}.tar"
        where = {"data.train": urls, "data.val": urls}
        train(tmp_path / "urls", 3, **where)
        cached = {"data.loader.remote.cache_dir": str(tmp_path / "cache")}
        rest, resumed = train(tmp_path / "urls", 6, "--ckpt_path=last", **where, **cached)
    assert len(losses) == 6
    assert rest == losses[-len(rest) :]
    assert 0 < len(rest) < 6
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.slow  # fourteen runs, each a process that imports Lightning and starts workers
def test_a_recipe_killed_ten_times_ends_with_the_losses_and_weights_of_one_that_never_was(shards, tmp_path):
    """With echo, a pool and workers, at random moments: checkpoints are written after nearly every step."""
    minutes = {"class_path": "flashvsr.training.callbacks.LastCheckpoint", "init_args": {"minutes": 0.0}}
    said = yaml.safe_load((RECIPES / "nano" / "vae.yaml").read_text())["trainer"]["callbacks"]
    minutes["init_args"]["dirpath"] = "runs/nano/checkpoints/vae"
    callbacks = [minutes if part["class_path"] == minutes["class_path"] else part for part in said]
    callbacks[-1]["init_args"]["folder"] = "runs/nano/vae"
    (tmp_path / "often.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    toy = {"data.crop": "64", "data.epoch.batches": "3", "data.epoch.echo": "4", "data.loader.workers": "2"}
    toy["trainer.limit_val_batches"] = "0"

    def start(folder, *more):
        folder.mkdir(exist_ok=True)
        arguments = toy_arguments("nano/vae", shards, **toy, **{"trainer.max_steps": "150"})
        command = [sys.executable, "-m", "flashvsr", *arguments[:3], "-c", str(tmp_path / "often.yaml"), *arguments[3:]]
        return subprocess.Popen([*command, *more], cwd=folder, env=ONE_THREAD, stdout=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(timeout=600) == 0
    losses, whole = result_of(tmp_path / "whole")
    moments = random.Random(3)
    cut = tmp_path / "cut"
    checkpoint = cut / "runs/nano/checkpoints/vae/last.ckpt"
    more = []
    for number, status in [(signal.SIGKILL, -9)] * 10 + [(signal.SIGTERM, 143), (signal.SIGINT, 130)]:
        times, delay = moments.randint(2, 8), moments.uniform(0, 0.1)
        assert stop_when_saved_often(start(cut, *more), times, number, checkpoint, delay) == status
        more = ["--ckpt_path=last"]
    assert 0 < state_of(checkpoint)["global_step"] < 150
    assert start(cut, *more).wait(timeout=600) == 0
    rest, resumed = result_of(cut)
    assert 0 < len(rest) < 150
    assert rest == losses[-len(rest) :]
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
