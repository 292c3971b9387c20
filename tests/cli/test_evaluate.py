"""``flashvsr evaluate`` on toy clips and toy models."""

from __future__ import annotations

import csv
import json
from fractions import Fraction

import pytest
import torch
from PIL import Image
from torch import nn

from flashvsr.cli import main
from flashvsr.models.folder import Component, read_model_folder, save_model_folder
from flashvsr.video import VideoInfo, VideoWriter

QUICK = ["--degrade", "bicubic", "--downscale", "1", "--metrics", "psnr", "--device", "cpu"]
DECODER = {"channels": [8, 8, 8, 8], "residual": True}
DIT = {"dim": 64, "layers": 1, "heads": 1, "ffn_dim": 64, "text_dim": None}


@pytest.fixture
def clip(tmp_path):
    coarse = torch.rand(3, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    frames = nn.functional.interpolate(coarse, size=(64, 96), mode="bilinear").mul(255).to(torch.uint8)
    file = tmp_path / "clip.mp4"
    with VideoWriter(file, width=96, height=64, info=VideoInfo(96, 64, Fraction(25))) as writer:
        for t, frame in enumerate(frames):
            writer.write(frame, Fraction(t, 25))
    return str(file)


def _component(name: str, **arguments) -> Component:
    from flashvsr.models.class_paths import build

    torch.manual_seed(0)
    module = build(name, arguments)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    return Component(name, arguments, module)


def _model(path, *, attention: str = "LocalSparseAttention", steps: int = 1, alone: bool = False, **more) -> str:
    components = {"decoder": _component("flashvsr.decoders.TinyConditionalDecoder", **DECODER)}
    if not alone:
        factory = {"class_path": f"flashvsr.attention.{attention}"}
        components["projection"] = _component("flashvsr.models.LRProjection", hidden=[8, 8], dim=64)
        components["dit"] = _component("flashvsr.models.VideoDiT", attention=factory, **DIT)
    save_model_folder(path, components, steps=steps, **more)
    return str(path)


def _rows(folder) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_tables_and_pictures_are_written_and_the_same_twice(clip, tmp_path, capsys):
    arguments = ["evaluate", "--data", clip, "--model", *QUICK, "--metrics", "psnr", "ssim", "lpips", "--video"]
    arguments += ["--part", "clip.mp4:1:0,0,32", "--part", "clip.mp4:1:32,32,32"]
    for name in ("one", "two"):
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
    printed = capsys.readouterr().out
    assert "| bicubic" in printed and "lpips is missing" in printed
    one, two = tmp_path / "one", tmp_path / "two"
    assert sorted(file.relative_to(one).as_posix() for file in one.rglob("*.*")) == [
        "pictures/clip.mp4.png",
        "results.csv",
        "results.json",
        "results.md",
        "strips/clip.mp4_1.png",
        "videos/clip.mp4.mp4",
    ]
    for name in ("results.csv", "results.json", "results.md", "pictures/clip.mp4.png"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert Image.open(one / "strips/clip.mp4_1.png").height > 2 * 64
    assert list(_rows(one)) == ["bicubic", "lanczos", "ground truth"]


def test_existing_results_are_not_overwritten_unasked_and_nothing_else_ever(clip, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["evaluate", "--data", clip, "--model", *QUICK, "--out", str(out)]
    out.mkdir()
    (out / "mine").touch()
    assert main(arguments) == 1 and "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 1 and "no results" in capsys.readouterr().err
    assert (out / "mine").exists()
    (out / "results.json").write_text("{}")
    assert main([*arguments, "--overwrite"]) == 0
    assert json.loads((out / "results.json").read_text())["rows"] and (out / "mine").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["clip.mp4", "out"], "no leftovers"


def test_a_failure_leaves_nothing_behind(clip, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", "--data", clip, "--model", *QUICK, "--out", str(out), "--part", "clip.mp4:9:0,0,8"]) == 1
    assert "there is no frame 9" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "no model 'nowhere'"),
        (["--part", "other.mp4:0:0,0,8"], "there is no clip 'other.mp4'; there are clip.mp4"),
        (["--part", "clip.mp4"], "CLIP:FRAME:TOP,LEFT,SIZE"),
        (["--steps", "0"], "--steps is at least 1"),
        (["--impl", "fastest"], "impl is one of auto"),
        (["--data", "nowhere.mp4"], "nowhere.mp4 is not there"),
    ],
)
def test_what_makes_no_sense_is_one_clear_error_before_any_work(clip, capsys, arguments, message):
    assert main(["evaluate", "--data", clip, *QUICK, *arguments]) == 1
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and shown.out == "" and "seed 0" not in shown.err


def test_models_of_every_stage_run_beside_the_baselines(clip, tmp_path):
    models = [
        _model(tmp_path / "one_step"),
        _model(tmp_path / "teacher", attention="FullAttention", steps=2),
        _model(tmp_path / "control", alone=True),
    ]
    out = tmp_path / "out"
    arguments = ["evaluate", "--data", clip, *QUICK, "--out", str(out), "--model", *models]
    assert main([*arguments, "--ablate", "velocity", "latents"]) == 0
    rows = _rows(out)
    teacher = "teacher (whole clip, 2 steps)"
    expected = ["bicubic", "lanczos"]
    expected += [
        f"{name}{what}" for name in ("one_step", teacher) for what in ("", ", zero velocity", ", zero latents")
    ]
    assert list(rows) == [*expected, "control (decoder alone)", "ground truth"]
    figures = {name: row["psnr_y"] for name, row in rows.items()}
    assert len({figures[f"one_step{what}"] for what in ("", ", zero velocity", ", zero latents")}) == 3
    # the three share a decoder: without latents they are one and the same
    assert figures["control (decoder alone)"] == figures[f"{teacher}, zero latents"]


def test_pictures_of_any_size_can_be_encoded(tmp_path, capsys):
    for number, size in enumerate(((101, 92), (75, 140))):
        Image.effect_noise(size, 40).convert("RGB").save(tmp_path / f"{number}.png")
    arguments = ["evaluate", "--data", str(tmp_path), "--model", *QUICK, "--degrade", "encoded"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    with Image.open(next((tmp_path / "out").rglob("0.png.png"))) as strip:
        assert strip.height >= 88
    assert "| bicubic" in capsys.readouterr().out


def test_rows_of_ablations_stand_beside_their_model_with_intervals(clip, tmp_path, capsys):
    model, out = _model(tmp_path / "model", color="none"), tmp_path / "out"
    other = tmp_path / "other.png"
    Image.fromarray(torch.randint(0, 256, (64, 96, 3), dtype=torch.uint8).numpy()).save(other)
    arguments = ["evaluate", "--data", clip, str(other), *QUICK, "--model", model, "--out", str(out)]
    assert main([*arguments, "--ablate", "latents", "shuffled", "seed", "--detail", "0", "0.5", "1"]) == 0
    said = json.loads((out / "results.json").read_text())
    what = ["zero latents", "latents of another clip", "another seed", "detail 0", "detail 0.5", "detail 1"]
    assert said["compared_with"] == {f"model, {words}": "model" for words in what}
    means, gains = said["means"], said["gains"]
    assert means["model, detail 0"] == means["model, zero latents"]
    assert means["model, detail 1"]["change"] == 0 and gains["model, detail 1"]["psnr_y"]["mean"] == 0
    changes = [means[f"model, {words}"]["change"] for words in what]
    assert all(change > 0 for change in changes[:5]) and changes[4] < changes[3]
    assert gains["model, zero latents"]["psnr_y"]["clips"] == 2
    assert "±" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ablate", "latents"], "--ablate and --detail are for models with a diffusion part, and none of these has"),
        (["--detail", "0.5"], "--ablate and --detail are for models with a diffusion part, and none of these has"),
        (["--ablate", "shuffled"], "--ablate shuffled takes latents of another clip, and there is only one"),
        (["--detail", "1.5"], "detail goes from 0, the decoder alone, to 1, the whole model; got 1.5"),
        (["--latents", "truth", "--ablate", "seed"], "with --latents truth no transformer runs"),
    ],
)
def test_ablations_that_make_no_sense_are_refused(clip, tmp_path, capsys, arguments, message):
    alone = _model(tmp_path / "alone", alone=True)
    assert main(["evaluate", "--data", clip, *QUICK, "--model", alone, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_latents_of_the_truth_by_a_conditional_encoder_are_compared_with_none(clip, tmp_path):
    components = {"decoder": _component("flashvsr.decoders.TinyConditionalDecoder", **DECODER)}
    components["encoder"] = _component("flashvsr.decoders.ConditionalEncoder", channels=[8, 8, 8])
    save_model_folder(tmp_path / "auto", components, color="none")
    out = tmp_path / "out"
    arguments = ["evaluate", "--data", clip, *QUICK, "--model", str(tmp_path / "auto"), "--latents", "truth"]
    assert main([*arguments, "--ablate", "latents", "--out", str(out)]) == 0
    rows = _rows(out)
    label = "auto (decoder, latents of the truth)"
    assert list(rows) == ["bicubic", "lanczos", label, f"{label}, zero latents", "ground truth"]
    assert rows[label]["psnr_y"] != rows[f"{label}, zero latents"]["psnr_y"]


def test_version_and_prompt_reach_official_folders_and_no_others(clip, tmp_path, monkeypatch):
    ours, official = _model(tmp_path / "ours"), tmp_path / "FlashVSR"
    official.mkdir()
    (official / "TCDecoder.ckpt").touch()
    asked = []

    def read_official_folder(path, *, version, prompt):
        asked.append((path, version, prompt))
        return read_model_folder(ours)

    monkeypatch.setattr("flashvsr.models.loading.read_official_folder", read_official_folder)
    arguments = ["evaluate", "--data", clip, *QUICK, "--version", "v1", "--prompt", "posi_prompt.pth"]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--model", ours, str(official)]) == 0
    assert asked == [(official, "v1", "posi_prompt.pth")]
    assert {"ours", "FlashVSR"} <= _rows(tmp_path / "out").keys()


def test_version_without_an_official_folder_is_refused(clip, capsys):
    assert main(["evaluate", "--data", clip, *QUICK, "--version", "v1"]) == 1
    assert "none of the models is one" in capsys.readouterr().err


def test_steps_can_be_chosen(clip, tmp_path):
    model, figures = _model(tmp_path / "sparse"), set()
    for steps in (1, 3):
        out = tmp_path / str(steps)
        assert (
            main(["evaluate", "--data", clip, *QUICK, "--out", str(out), "--model", model, "--steps", str(steps)]) == 0
        )
        (name,) = [name for name in _rows(out) if name.startswith("sparse")]
        assert name == f"sparse (whole clip, {steps} step{'s' * (steps > 1)})"
        figures.add(_rows(out)[name]["psnr_y"])
    assert len(figures) == 2


def test_colour_is_what_the_folder_wants_unless_told(clip, tmp_path):
    model, figures = _model(tmp_path / "sparse"), []
    for number, said in enumerate((["--color", "none"], ["--color", "adain"], [])):
        out = tmp_path / str(number)
        assert main(["evaluate", "--data", clip, *QUICK, "--out", str(out), "--model", model, *said]) == 0
        figures.append(_rows(out)["sparse"]["psnr_y"])
    assert figures[0] != figures[1] == figures[2]


def test_two_models_of_one_name_are_refused(clip, tmp_path, capsys):
    models = [_model(tmp_path / folder / "model", alone=True) for folder in ("a", "b")]
    assert main(["evaluate", "--data", clip, *QUICK, "--model", *models]) == 1
    assert "two models would be called" in capsys.readouterr().err


def test_a_real_clip_and_a_photograph_are_measured(real_clips, tmp_path):
    data = [str(real_clips / "val" / name) for name in ("video/gaia_pampas__texture-540.mp4", "photo/groceries.jpg")]
    out = tmp_path / "out"
    assert main(["evaluate", "--data", *data, *QUICK, "--crop", "128", "128", "--frames", "2", "--out", str(out)]) == 0
    said = json.loads((out / "results.json").read_text())
    assert 15 < said["means"]["bicubic"]["psnr_y"] < 45 and len(said["rows"]) == 2 * 4


def test_a_folder_of_many_steps_is_sampled_at_the_shift_that_it_was_trained_with(clip, tmp_path):
    rows = []
    for name, shift in (("plain", 5.0), ("same", 5.0), ("shifted", 1.0)):
        model = _model(tmp_path / name, attention="FullAttention", steps=3, shift=shift)
        out = tmp_path / f"{name}_out"
        assert main(["evaluate", "--data", clip, "--model", model, *QUICK, "--out", str(out)]) == 0
        rows.append(_rows(out)[f"{name} (whole clip, 3 steps)"]["psnr_y"])
    assert rows[0] == rows[1] != rows[2]


def test_a_decoder_without_lr_frames_is_judged_on_latents_of_the_truth_where_zeros_tell_nothing(clip, tmp_path):
    parts = {
        "decoder": _component("flashvsr.decoders.TinyDecoder", channels=[8, 8, 8, 8]),
        "vae": _component("flashvsr.decoders.TinyVAE", encoder_channels=[8, 8, 8], channels=[8, 8, 8, 8]),
    }
    save_model_folder(tmp_path / "pair", parts, color="none")
    figures = []
    for latents in ("truth", None):
        more = [] if latents is None else ["--latents", latents]
        out = tmp_path / str(latents)
        arguments = ["evaluate", "--data", clip, "--model", str(tmp_path / "pair"), *QUICK, *more, "--out", str(out)]
        assert main(arguments) == 0
        figures.append([row | {"method": ""} for name, row in _rows(out).items() if "pair" in name])
        assert any("latents of the truth" in name for name in _rows(out)) == (latents == "truth")
    assert figures[0] and figures[0] != figures[1]
