"""``flashvsr ablate``: from a plan to a table."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from flashvsr.attention import FullAttention, LocalSparseAttention
from flashvsr.cli import main
from flashvsr.cli.ablation_plan import AblationRun, make_runs, read_plan
from flashvsr.cli.ablation_table import kept_density
from flashvsr.cli.recipes import find_recipe, recipe_names
from flashvsr.video import VideoInfo

SMALL = """
  - --data.val=shards/train/*.tar
  - --data.photos.fraction=0
  - --data.frames=9
  - --data.crop=128
  - --data.batch_size=1
  - --data.epoch.batches=2
  - --data.epoch.echo=1
  - --data.epoch.pool=1
  - --data.loader.workers=0
  - --trainer.accelerator=cpu
  - --trainer.precision=32-true
  - --trainer.max_steps=2
  - --trainer.limit_val_batches=0
  - --trainer.enable_progress_bar=false
  - --trainer.enable_model_summary=false
  - --model.scheduler.init_args.warmup=1
"""
NARROW = """
model: {init_args: {decoder: {init_args: {channels: [32, 24, 16, 8]}}}}
"""


def write_plan(folder, **changes):
    said = {
        "base": "[nano/decoder, ablations/control]",
        "variants": f"{{wide: {{}}, narrow: {folder / 'narrow.yaml'}}}",
        "arguments": SMALL,
        "evaluate": "[--data, clip.mp4, --frames, '3', --short-side, '0', --downscale, '1', --metrics, psnr]",
        **changes,
    }
    (folder / "narrow.yaml").write_text(NARROW)
    (folder / "study.yaml").write_text("".join(f"{key}: {value}\n" for key, value in said.items() if value))
    return folder / "study.yaml"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": "{base: {}}"}, "at least 2 variants"),
        ({"variant": "{a: {}}"}, "a plan has base, variants, evaluate"),
        ({"evaluate": ""}, "a plan has base, variants, evaluate"),
        ({"seeds": "[1, 1]"}, "seeds are different"),
        ({"size": "[100, 100]"}, "multiples of 128"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_anything_runs(tmp_path, capsys, changes, said):
    assert main(["ablate", str(write_plan(tmp_path, **changes)), "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_packaged_plans_name_packaged_recipes():
    for name in ("ablations/attention", "ablations/decoders"):
        plan = read_plan(find_recipe(name))
        assert set(plan.base) | {recipe for variant in plan.variants.values() for recipe in variant} <= set(
            recipe_names()
        )
        assert plan.variants["base"] == ()


@pytest.mark.slow  # two processes parse recipes with Lightning
def test_runs_have_folders_of_their_own_and_a_wrong_variant_is_named(tmp_path):
    plan = read_plan(write_plan(tmp_path))
    runs = make_runs(plan, "study", tmp_path / "out")
    assert [str(run.folder) for run in runs] == ["runs/nano/study/wide_seed0", "runs/nano/study/narrow_seed0"]
    (tmp_path / "narrow.yaml").write_text("model: {init_args: {decodr: 1}}")
    with pytest.raises(ValueError, match="the recipe of narrow is refused"):
        make_runs(plan, "study", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "density"),
    [
        ({"window_hw": (1, 1), "history": 1}, 1 / 16),
        ({"window_hw": (99, 99), "sparse_ratio": 1e6, "history": 3}, 1.0),
        ({"window_hw": (99, 99), "sparse_ratio": 0.25, "history": 0}, 239 / 256),
    ],
)
def test_density_counts_the_pairs_within_window_and_budget(options, density):
    layer = LocalSparseAttention(64, 2, boundary="preserved", **options)
    assert kept_density(torch.nn.Sequential(layer), (512, 512)) == pytest.approx(density)


def test_full_attention_has_no_density():
    assert kept_density(torch.nn.Sequential(FullAttention(64, 2)), (512, 512)) is None


def test_a_folder_that_an_interrupted_training_left_is_no_result(tmp_path, monkeypatch):
    parts = {"ExportModelFolder": {"folder": str(tmp_path / "made")}, "LastCheckpoint": {"dirpath": str(tmp_path)}}
    callbacks = [{"class_path": f"flashvsr.{name}", "init_args": arguments} for name, arguments in parts.items()]
    run = AblationRun("base", 0, ["-c", "recipe"], tmp_path / "out", {"trainer": {"callbacks": callbacks}})
    commands = []

    def fit(arguments, log, environment):
        commands.append(arguments)
        (tmp_path / "made").mkdir(exist_ok=True)
        (tmp_path / "made" / "model.yaml").write_text("")
        (tmp_path / "last.ckpt").write_text("")
        if len(commands) == 1:
            raise RuntimeError("flashvsr fit ended with 130")

    monkeypatch.setattr("flashvsr.cli.ablation_plan._logged", fit)
    with pytest.raises(RuntimeError, match="130"):
        run.train({})
    run.train({})
    run.train({})
    assert commands == [["fit", "-c", "recipe"], ["fit", "-c", "recipe", "--ckpt_path", "last"]]


@pytest.mark.slow  # two trainings of two steps and two evaluations, each a process of its own
def test_a_study_ends_with_a_table_and_runs_nothing_twice(tmp_path, monkeypatch, write_clip, capsys):
    monkeypatch.chdir(tmp_path)
    times = [Fraction(number, 25) for number in range(12)]
    write_clip(tmp_path / "clip.mp4", times, VideoInfo(256, 256, Fraction(25), Fraction(1, 90000)))
    assert main(["shards", "make", "clip.mp4", "--out", "shards/train"]) == 0
    capsys.readouterr()
    plan = write_plan(tmp_path)
    assert main(["ablate", str(plan), "--out", "out"]) == 0
    table = capsys.readouterr().out
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    assert {"wide", "narrow"} <= set(rows)
    assert "2.41 M" in rows["wide"]
    assert "2.41 M" not in rows["narrow"]
    assert (tmp_path / "out" / "table.md").read_text() == table
    logs = [(tmp_path / f"out/{name}_seed0/fit.log") for name in ("wide", "narrow")]
    trained = [log.stat().st_mtime_ns for log in logs]
    assert main(["ablate", str(plan), "--out", "out"]) == 0
    assert capsys.readouterr().out == table
    assert [log.stat().st_mtime_ns for log in logs] == trained
    plan.write_text(plan.read_text() + "seeds: [0, 1]\n")
    assert main(["ablate", str(plan), "--out", "out"]) == 1
    assert "another plan" in capsys.readouterr().err
