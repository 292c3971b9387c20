"""Metrics of other packages: called as they want to be, and named when they are missing; nothing is downloaded."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flashvsr.evaluate import BASELINES, ClipMeter, LowClip, ReferenceClip, evaluate, load_video_scorer, missing_metrics
from flashvsr.evaluate.metrics import GROUND_TRUTH
from flashvsr.evaluate.scorers import frame_scorer, pair_scorer, pyiqa_trial

# a package of the name and call of pyiqa: create_metric(name, device=...)(frames [1, 3, H, W] in [0, 1]) -> [1, 1]
STAND_IN = """
import torch

class Metric(torch.nn.Module):
    def __init__(self, name, device):
        super().__init__()
        print("Loading pretrained model", name)
        self.name, self.scale = name, torch.nn.Parameter(torch.tensor(100.0, device=device))

    def forward(self, frames):
        assert frames.shape[:2] == (1, 3) and 0 <= frames.min() and frames.max() <= 1
        return self.scale * frames.mean().reshape(1, 1)

def create_metric(metric_name, as_loss=False, device=None, **options):
    {before}
    return Metric(metric_name, device)
"""
DOWNLOAD = "import urllib.request; urllib.request.urlopen('https://example.com/weights.pth')"


@pytest.fixture
def pyiqa(tmp_path, monkeypatch):
    """Install a stand-in for pyiqa; `before` runs where the real one looks for weights."""

    def install(before: str = "pass") -> None:
        (tmp_path / "pyiqa.py").write_text(STAND_IN.replace("{before}", before))
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "pyiqa", raising=False)

    for cached in (frame_scorer, pyiqa_trial):
        cached.cache_clear()
    yield install
    for cached in (frame_scorer, pyiqa_trial):
        cached.cache_clear()
    sys.modules.pop("pyiqa", None)


def _frames(level: int, count: int = 2) -> torch.Tensor:
    return torch.full((count, 3, 64, 64), level, dtype=torch.uint8)


def test_no_reference_metrics_are_means_over_frames_and_given_for_the_ground_truth_too(pyiqa, capsys):
    pyiqa()
    metrics = ("niqe", "musiq", "clipiqa")
    assert missing_metrics(metrics) == {}
    meter = ClipMeter(["ours"], metrics)
    for level in (51, 102):
        meter.add(_frames(255, 1)[0], {"ours": _frames(level, 1)[0]})
    figures = meter.result()
    assert figures["ours"] == pytest.approx(dict.fromkeys(metrics, 30.0), abs=1e-4)
    assert figures[GROUND_TRUTH] == pytest.approx(dict.fromkeys(metrics, 100.0), abs=1e-4)
    assert capsys.readouterr().out == "", "what pyiqa prints would stand in the table"


def test_weights_that_would_be_downloaded_are_named_as_missing_at_once(pyiqa):
    pyiqa(DOWNLOAD)
    missing = missing_metrics(("musiq",))
    assert "downloads nothing" in missing["musiq"] and "pyiqa.create_metric('musiq')" in missing["musiq"]


def test_this_process_keeps_its_network_while_metrics_are_tried_and_made(pyiqa, tmp_path):
    note = tmp_path / "seen"
    look = "import os, socket; line = f'{os.getpid()} {socket.getaddrinfo.__module__} {socket.socket.connect.__name__}'"
    pyiqa(f"{look}; open({str(note)!r}, 'a').write(line + chr(10))")
    assert missing_metrics(("niqe",)) == {}
    frame_scorer("niqe", "cpu")
    seen = [line.split() for line in note.read_text().splitlines()]
    assert {tuple(names) for pid, *names in seen if int(pid) == os.getpid()} == {("socket", "connect")}
    assert {tuple(names) for pid, *names in seen if int(pid) != os.getpid()} == {("__main__", "_refuse")}


def test_a_metric_without_weights_is_refused_not_downloaded(pyiqa):
    pyiqa(DOWNLOAD)
    with pytest.raises(OSError, match=r"niqe: pyiqa cannot load it: .*downloads nothing"):
        ClipMeter(["ours"], ("niqe",)).add(None, {"ours": _frames(0)[0]})


def test_a_missing_package_is_named_with_the_extra(pyiqa, monkeypatch):
    monkeypatch.setattr("flashvsr.evaluate.scorers.find_spec", lambda name: None)
    missing = missing_metrics(("niqe", "vmaf", "dists"))
    assert "flashvsr[iqa]" in missing["niqe"] and "vmaf-torch" in missing["vmaf"] and "torchvision" in missing["dists"]


def test_a_package_that_lacks_another_says_which(pyiqa):
    pyiqa("import no_such_package")
    assert missing_metrics(("clipiqa",))["clipiqa"] == "pyiqa cannot be imported: No module named 'no_such_package'"


def test_a_score_that_is_not_one_number_is_refused(pyiqa):
    pyiqa("return lambda frames: frames.mean((2, 3))")
    with pytest.raises(ValueError, match=r"niqe gave a score of shape \[1, 3\]"):
        ClipMeter(["ours"], ("niqe",)).add(None, {"ours": _frames(0)[0]})


def test_a_score_of_nan_is_no_figure_and_said(pyiqa):
    pyiqa("return lambda frames: frames.mean() * float('nan')")
    meter = ClipMeter(["ours"], ("niqe",))
    meter.add(None, {"ours": _frames(9)[0]})
    assert meter.result()["ours"] == {} and meter.notes == {"niqe": "ours got no number"}


def test_dists_is_torchmetrics_network_built_once(tmp_path, monkeypatch):
    pytest.importorskip("torchvision")
    from torchmetrics.functional.image import dists
    from torchvision.models import vgg

    built = []

    def vgg16(weights):  # features of the right layers, with weights of no meaning and a tenth of the size
        torch.manual_seed(0)
        built.append(weights)
        return SimpleNamespace(features=vgg.make_layers(vgg.cfgs["D"]))

    monkeypatch.setattr(dists, "vgg16", vgg16)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert "vgg16 weights (528 MiB)" in missing_metrics(("dists",))["dists"]
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    (tmp_path / "hub/checkpoints/vgg16-397923af.pth").touch()
    assert missing_metrics(("dists",)) == {}
    pair_scorer.cache_clear()
    picture = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    meter = ClipMeter(["same", "other"], ("dists",))
    for frame in picture:
        meter.add(frame, {"same": frame, "other": 255 - frame})
    figures = meter.result()
    pair_scorer.cache_clear()
    assert figures["same"]["dists"] == pytest.approx(0, abs=1e-5) and figures["other"]["dists"] > 1e-3
    assert len(built) == 1


def test_dover_is_what_the_given_function_says_of_whole_clips(tmp_path, monkeypatch):
    (tmp_path / "my_dover.py").write_text("def score(frames):\n    return float(len(frames) + frames[0, 0, 0, 0])\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    scorer = load_video_scorer("my_dover:score")
    assert missing_metrics(("dover",), scorer) == {}
    assert "--dover MODULE:FUNCTION" in missing_metrics(("dover",))["dover"]
    results = evaluate([ReferenceClip("a", _frames(7, 3))], BASELINES, metrics=("dover",), dover=scorer)
    assert [row.method for row in results.rows] == ["bicubic", "lanczos", GROUND_TRUTH]
    assert all(row.figures == {"dover": 10.0} for row in results.rows)


@pytest.mark.parametrize("said", ["my_dover", ":score", "no_such_module:score", "math:no_such_function", "math:pi"])
def test_a_scorer_that_is_not_there_is_refused(said):
    with pytest.raises(ValueError, match="scorer"):
        load_video_scorer(said)


def test_an_lr_clip_gets_the_figures_that_need_no_ground_truth(pyiqa):
    pyiqa()
    results = evaluate(
        [LowClip("a", _frames(51)[..., :16, :16])], BASELINES, metrics=("psnr", "musiq", "vmaf", "warping")
    )
    assert [(row.method, sorted(row.figures)) for row in results.rows] == [
        ("bicubic", ["musiq"]),
        ("lanczos", ["musiq"]),
    ]
    assert results.rows[0].figures["musiq"] == pytest.approx(20)
    lacking = [f"{column}: there is no ground truth" for column in ("psnr_y", "psnr_rgb", "vmaf", "warp_error")]
    assert results.skipped == {reason: ["a"] for reason in lacking}


def test_importing_the_evaluation_loads_none_of_these_packages():
    import subprocess

    code = "import sys, flashvsr.evaluate; print([m for m in ('pyiqa', 'vmaf_torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.strip() == "[]"
