"""The size of clips is checked against what a stage takes, before anything is read or built for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashvsr.cli import main
from tests.small_folder import save_small_system

A_VAE = ["--model.vae={class_path: flashvsr.decoders.TinyVAE}"]
FOLDERS = "{class_path: flashvsr.models.component, init_args: {folder: small, name: %s}}"


@pytest.fixture(autouse=True)
def only_a_small_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_small_system("small")


def refused(capsys, recipe, *more):
    """The error of a nano recipe, trained from a small model; it comes before the shards are looked for."""
    if recipe == "stage3_one_step":
        parts = {"dit": "dit", "projection": "projection", "score": "dit", "score_projection": "projection"}
        arguments = [f"--model.{name}={FOLDERS % part}" for name, part in {**parts, "decoder": "decoder"}.items()]
    elif recipe == "stage2_sparse_causal":
        arguments = [f"--model.{name}={FOLDERS % name}" for name in ("dit", "projection")]
    else:
        arguments = []
    if recipe.startswith("stage"):
        arguments += ["--model.encoder=null"] + (["--model.decoder=null"] if recipe != "stage3_one_step" else [])
    if recipe != "vae":
        arguments += A_VAE
    arguments += ["--trainer.callbacks=null", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    assert main(["fit", "-c", f"nano/{recipe}", *arguments, *more]) == 1
    return [line for line in capsys.readouterr().err.splitlines() if "flashvsr fit: error" in line][-1]


@pytest.mark.parametrize(
    ("recipe", "more", "said"),
    [
        (
            "stage2_sparse_causal",
            ["--data.frames=13"],
            "data.frames is 13: SparseCausalStage takes 8n+1 frames; 9 or 17",
        ),
        (
            "stage3_one_step",
            ["--data.frames=13"],
            "data.frames is 13: OneStepStage takes 8n+1 frames; 9 or 17 would do",
        ),
        ("stage3_one_step", ["--data.frames=5"], "8n+1 frames; 9 would do"),
        ("stage1_joint", ["--data.frames=14"], "data.frames is 14: JointStage takes 4n+1 frames; 13 or 17 would do"),
        ("vae", ["--data.frames=2"], "data.frames is 2: AutoencoderStage takes 4n+1 frames; 5 would do"),
        ("decoder", ["--data.frames=16"], "data.frames is 16: DecoderStage takes 4n+1 frames; 13 or 17 would do"),
        (
            "stage2_sparse_causal",
            ["--data.crop=64"],
            "data.crop is 64: SparseCausalStage takes multiples of 128 pixels; 128",
        ),
        ("stage3_one_step", ["--data.crop=[256,200]"], "data.crop is (256, 200): OneStepStage takes multiples of 128"),
        ("stage3_one_step", ["--data.validation.crop=200"], "data.validation.crop is 200: OneStepStage"),
        ("stage1_joint", ["--data.crop=200"], "multiples of 16 pixels; 192 or 208 would do"),
    ],
)
def test_a_size_that_a_stage_does_not_take_is_named_with_those_that_would_do(recipe, more, said, capsys):
    assert said in refused(capsys, recipe, *more)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("recipe", "folder", "maker"),
    [
        ("nano/decoder", "runs/nano/vae", "nano/vae"),
        ("nano/stage1_joint", "runs/nano/autoencoder", "nano/autoencoder"),
        ("nano/stage2_sparse_causal", "runs/nano/stage1", "nano/stage1_joint"),
        ("nano/stage3_one_step", "runs/nano/stage2", "nano/stage2_sparse_causal"),
    ],
)
def test_a_missing_model_folder_is_named_with_the_command_that_makes_it(recipe, folder, maker, capsys):
    assert main(["fit", "-c", recipe]) == 1
    said = capsys.readouterr().err
    assert f"there is no model '{folder}'" in said and f"`flashvsr fit -c {maker}` makes it" in said


def test_a_size_that_a_stage_takes_passes_as_far_as_the_shards(capsys):
    assert "no shards match" in refused(capsys, "stage2_sparse_causal", "--data.frames=17", "--data.crop=[128,256]")
