"""Classes outside flashvsr: refused before any work, used when trusted, named in the model folder."""

from __future__ import annotations

import shutil
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

import flashvsr
from flashvsr.cli import main
from flashvsr.models import component
from flashvsr.video import VideoInfo
from tests.cli.test_fit import RECIPE, error_of
from tests.small_folder import save_small_system

MINE = '''
from flashvsr.attention import LocalSparseAttention
from flashvsr.decoders import TinyConditionalDecoder, TinyDecoder

class OwnDecoder(TinyDecoder):
    """Found by its own path alone."""

class OwnConditionalDecoder(TinyConditionalDecoder):
    """Likewise."""

class OwnAttention(LocalSparseAttention):
    """Likewise."""
'''
NANO = Path(flashvsr.__file__).parent / "weights" / "nano"


@pytest.fixture(autouse=True)
def working_directory(tmp_path, monkeypatch):
    """A folder with a module of its own, which is not on the path: the command finds it as the console script does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("mine.py").write_text(MINE)
    Path("recipe.yaml").write_text(RECIPE.replace("flashvsr.decoders.TinyDecoder", "mine.OwnDecoder"))
    yield
    sys.modules.pop("mine", None)


def model_with(name, class_path):
    """A model with a component of another class: a small one, or nano, which is a decoder alone."""
    if name == "dit":
        save_small_system("folder")
    else:
        shutil.copytree(NANO, "folder")
    said = yaml.safe_load(Path("folder/model.yaml").read_text())
    part = said["components"][name]
    if name == "dit":
        part = part["init_args"]["attention"]
    part["class_path"] = class_path
    Path("folder/model.yaml").write_text(yaml.safe_dump(said))
    return "folder"


def test_an_own_decoder_is_refused_before_training_and_the_way_out_named(capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path.cwd())
    said = error_of(capsys, ["fit", "-c", "recipe.yaml"])
    assert "made could not hold the trained decoder: mine.OwnDecoder is not part of flashvsr" in said
    assert "--trust-code" in said


@pytest.mark.parametrize("way", ["option", "key"])
def test_a_trusted_decoder_of_the_working_directory_is_trained_and_named_in_the_folder(way):
    if way == "key":
        Path("recipe.yaml").write_text("trust_code: true\n" + Path("recipe.yaml").read_text())
    more = ["--trust-code"] if way == "option" else []
    assert main(["fit", "-c", "recipe.yaml", *more, "--trainer.max_steps=3"]) == 0
    assert yaml.safe_load(Path("made/model.yaml").read_text())["foreign"] == ["mine.OwnDecoder"]
    with pytest.raises(ValueError, match="--trust-code"):
        component("made", "decoder")
    assert type(component("made", "decoder", trust_code=True)).__name__ == "OwnDecoder"


def test_a_folder_with_an_own_decoder_starts_the_next_run_only_when_trusted(capsys):
    assert main(["fit", "-c", "recipe.yaml", "--trust-code", "--trainer.max_steps=3"]) == 0
    for folder in ("logs", "checkpoints"):
        shutil.rmtree(folder)
    Path("made").rename("before")
    part = "{class_path: flashvsr.models.component, init_args: {folder: before, name: decoder}}"
    made = "{class_path: flashvsr.decoders.TinyDecoder, init_args: {channels: [8, 8, 8, 8]}}"
    assert made in RECIPE
    Path("recipe.yaml").write_text(RECIPE.replace(made, part))
    capsys.readouterr()
    assert "mine.OwnDecoder is not part of flashvsr" in error_of(capsys, ["fit", "-c", "recipe.yaml"])
    assert main(["fit", "-c", "recipe.yaml", "--trust-code", "--trainer.max_steps=3"]) == 0


def test_a_folder_without_own_classes_does_not_speak_of_them():
    Path("recipe.yaml").write_text(RECIPE)
    assert main(["fit", "-c", "recipe.yaml", "--trainer.max_steps=3"]) == 0
    assert "foreign" not in yaml.safe_load(Path("made/model.yaml").read_text())


def test_an_own_attention_among_overrides_needs_trust_and_gets_it_from_the_command_line(capsys):
    Path("recipe.yaml").write_text(RECIPE)
    save_small_system("small")
    small = "--model.decoder={class_path: flashvsr.models.component, init_args: {folder: small, name: dit}}"
    arguments = ["fit", "-c", "recipe.yaml", small, "--model.decoder.overrides.attention.class_path=mine.OwnAttention"]
    said = error_of(capsys, arguments)
    assert "model.decoder.overrides: mine.OwnAttention is not part of flashvsr" in said and "--trust-code" in said
    with pytest.raises(TypeError, match="positional"):  # built, but no decoder: it takes no batch
        main([*arguments, "--trust-code"])


@pytest.mark.slow  # nano runs on the CPU, 25 frames at least
@pytest.mark.parametrize(
    ("name", "class_path", "command"),
    [
        ("decoder", "mine.OwnConditionalDecoder", ["upscale", "in.mp4", "out.mp4", "--quiet"]),
        ("dit", "mine.OwnAttention", ["bench", "--size", "128x128", "--chunks", "1"]),
    ],
)
def test_upscale_and_bench_run_an_own_part_only_when_trusted(name, class_path, command, write_clip, capsys):
    write_clip(Path("in.mp4"), [0, 1])
    arguments = [*command, "--device", "cpu", "--model", model_with(name, class_path)]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert f"{class_path} is not part of flashvsr" in said and "--trust-code" in said
    assert main([*arguments, "--trust-code"]) == 0


def test_evaluate_runs_an_own_part_only_when_trusted(write_clip, capsys):
    folder = model_with("decoder", "mine.OwnConditionalDecoder")
    write_clip(Path("in.mp4"), [0, 1], VideoInfo(128, 128, Fraction(25), Fraction(1, 90000)))
    arguments = ["evaluate", "--data", "in.mp4", "--model", folder, "--frames", "1", "--metrics", "psnr"]
    arguments += ["--short-side", "0", "--downscale", "1", "--degrade", "bicubic", "--device", "cpu"]
    assert main(arguments) == 1
    assert "--trust-code" in capsys.readouterr().err
    assert main([*arguments, "--trust-code"]) == 0
    assert "folder" in capsys.readouterr().out
