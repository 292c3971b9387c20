"""The gates of nano's diffusion part: each figure on what it can be computed by hand for, and the script on a clip."""

from __future__ import annotations

import json
import runpy
import sys
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from flashvsr.models.class_paths import build
from flashvsr.models.folder import Component, save_model_folder
from flashvsr.training.batches import deviation_and_kurtosis
from flashvsr.video import VideoInfo, VideoWriter
from tests.models.test_sampler import gaussian_flow

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "nano_gates.py"


@pytest.fixture(scope="module")
def gates():
    return runpy.run_path(str(SCRIPT))


def test_the_energy_of_an_octave_is_that_of_its_waves_and_of_no_other(gates):
    x = torch.arange(256.0)

    def energies(low, high):
        """Of a wave in each of the two octaves."""
        line = 0.5 + low * torch.sin(2 * torch.pi * x * 3 / 16) + high * torch.sin(2 * torch.pi * x * 3 / 8)
        octaves = gates["Octaves"]()
        octaves.add(line.expand(1, 3, 256, 256))
        return octaves.sums

    truth, half = energies(0.2, 0.1), energies(0.1, 0.1)
    assert half["octave"] / truth["octave"] == pytest.approx(0.25, rel=1e-3)
    assert half["octave_above"] / truth["octave_above"] == pytest.approx(1.0, rel=1e-3)


def test_deviation_and_kurtosis_are_those_of_a_normal_and_of_a_mixture_of_scales():
    torch.manual_seed(0)
    normal = torch.randn(4, 2, 2, 64, 64)
    values = deviation_and_kurtosis(3 * normal + 5)
    assert values[0].item() == pytest.approx(3, rel=0.02) and values[1].item() == pytest.approx(3, rel=0.05)
    mixed = normal * torch.where(torch.rand(4, 2, 2, 64, 64) < 0.5, 0.1, 2.0)
    assert deviation_and_kurtosis(mixed)[1] > 5


FIGURES = {"deviation": 0.95, "octave": 0.8, "kid": 7.0, "control_kid": 10.0}


@pytest.mark.parametrize(
    ("gate", "changed", "passed"),
    [
        (2, {}, [True, True, True]),
        (2, {"deviation": 0.89}, [False, True, True]),
        (2, {"octave": 0.69}, [True, False, True]),
        (2, {"kid": 7.6}, [True, True, False]),
        (3, {"kid": 7.8}, [True, True, False]),
        (4, {"kid": 7.5}, [True]),
        (4, {"kid": 7.7}, [False]),
    ],
)
def test_a_gate_opens_for_what_it_demands(gates, gate, changed, passed):
    assert list(gates["verdict"](gate, FIGURES | changed, FIGURES).values()) == passed


def test_the_gain_of_a_teacher_that_has_none_is_kept_by_nobody(gates):
    assert not any(gates["verdict"](4, FIGURES, FIGURES | {"kid": 11.0}).values())
    with pytest.raises(ValueError, match="--teacher"):
        gates["verdict"](3, FIGURES)


@pytest.mark.skipif(find_spec("efficientnet_lite_pytorch") is None, reason="no lite-KID: pip install flashvsr[metrics]")
def test_the_script_measures_a_tiny_teacher_against_a_control_on_a_clip(gates, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    parts = {
        "encoder": ("flashvsr.decoders.ConditionalEncoder", {"channels": [8, 8, 8]}),
        "decoder": ("flashvsr.decoders.TinyConditionalDecoder", {"channels": [8, 8, 8, 8], "residual": True}),
        "projection": ("flashvsr.models.LRProjection", {"hidden": [8, 8], "dim": 32}),
        "dit": (
            "flashvsr.models.VideoDiT",
            {
                "dim": 32, "layers": 1, "heads": 2, "ffn_dim": 32, "text_dim": None, "preconditioned": True,
                "attention": {"class_path": "flashvsr.attention.FullAttention"},
            },
        ),
    }  # fmt: skip
    made = {name: Component(path, said, build(path, said)) for name, (path, said) in parts.items()}
    save_model_folder(tmp_path / "teacher", made, steps=3, shift=1.0, solver="heun", color="none")
    save_model_folder(tmp_path / "control", {"decoder": made["decoder"]}, color="none")
    info = VideoInfo(192, 192, Fraction(25), Fraction(1, 90000))
    with VideoWriter(tmp_path / "clip.mp4", width=192, height=192, info=info) as writer:
        for frame in range(9):
            writer.write((torch.rand(3, 192, 192) * 255).to(torch.uint8), Fraction(frame, 25))
    arguments = ["--gate", "2", "--data", tmp_path / "clip.mp4", "--model", tmp_path / "teacher", "--frames", "9"]
    arguments += ["--control", tmp_path / "control", "--autoencoder", tmp_path / "teacher", "--crop", "128", "128"]
    arguments += ["--degrade", "bicubic", "--device", "cpu", "--out", tmp_path / "gate.json"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    with pytest.raises(SystemExit):
        gates["main"]()
    assert "12 patches, expected 5000" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--few"])
    gates["main"]()
    figures = json.loads((tmp_path / "gate.json").read_text())["figures"]
    assert figures["clips"] == 1 and figures["patches"] == 12  # three of five frames, four patches each
    assert figures["control_psnr"] == pytest.approx(
        figures["bicubic_psnr"], abs=1e-3
    )  # an untrained decoder adds nothing
    assert figures["octave"] == pytest.approx(figures["control_octave"])
    assert 0.7 < figures["deviation"] * figures["truth_deviation"] < 1.4  # of samples, in the scale of the noise


def test_a_linear_flow_of_the_right_deviation_gives_samples_of_it(gates):
    """What the gate on the deviation rests on: with an exact velocity it opens."""
    from flashvsr.models import FlowSchedule

    noise = torch.randn(1, 16, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = FlowSchedule(1.0, "heun").sample(gaussian_flow(0.8), noise, None, steps=20)
    deviation = float(deviation_and_kurtosis(samples)[0] / deviation_and_kurtosis(0.8 * noise)[0])
    assert gates["verdict"](2, FIGURES | {"deviation": deviation})["deviation within 10 % of the truth's"]
