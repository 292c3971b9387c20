"""Tables: means, gains, and nothing dropped in silence."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest

from flashvsr.evaluate import ClipScores, Results, clip_table, mean_figures, mean_table, to_csv, to_json

ROWS = [
    ClipScores("a", 0, "bicubic", {"psnr_y": 30.0, "psnr_rgb": 28.0, "warp_error": 1.0}),
    ClipScores("a", 0, "nano", {"psnr_y": 31.0, "psnr_rgb": math.inf, "warp_error": 0.5}),
    ClipScores("a", 0, "ground truth", {"warp_error": 0.75}),
    ClipScores("b", 0, "bicubic", {"psnr_y": 20.0, "psnr_rgb": 18.0}),
    ClipScores("b", 0, "nano", {"psnr_y": 22.0, "psnr_rgb": 19.0}),
    ClipScores("b", 0, "ground truth", {}),
]
METRICS = ("psnr", "warping", "lpips")


@pytest.fixture
def results() -> Results:
    return Results(ROWS, {"lpips": "no weights"}, {"warp_error: a single frame has no motion": ["b"]})


def test_means_count_only_clips_that_have_a_figure():
    means = mean_figures(ROWS)
    assert means["nano"] == {"psnr_y": 26.5, "psnr_rgb": math.inf, "warp_error": 0.5}
    assert means["ground truth"] == {"warp_error": 0.75}


def test_the_table_shows_gains_over_bicubic_and_what_is_missing(results):
    table = mean_table(results, METRICS)
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    assert "26.50 (+1.50 ±6.35)" in lines["nano"] and "0.5000 (-0.5000)" in lines["nano"] and "inf" in lines["nano"]
    assert "(" not in lines["bicubic"] and "(" not in lines["ground truth"]
    assert lines["nano"].rstrip(" |").endswith("-"), "LPIPS keeps its column"
    assert "lpips is missing: no weights" in table
    assert "no warp_error: a single frame has no motion (b)" in table
    assert len({len(line) for line in lines.values()}) == 1


def test_an_ablation_is_compared_with_its_model_and_not_with_bicubic(results):
    ablated = [
        ClipScores(clip, 0, "nano, zero latents", {"psnr_y": value}) for clip, value in (("a", 30.5), ("b", 21.75))
    ]
    results = Results([*ROWS, *ablated], compared_with={"nano, zero latents": "nano"})
    table = mean_table(results, METRICS)
    (line,) = [line for line in table.splitlines() if line.startswith("| nano, zero latents")]
    assert "26.12 (-0.38 ±1.59)" in line  # -0.5 and -0.25; 12.706 x 0.125
    assert "or of an ablation over its model" in table
    said = json.loads(to_json(results, {}))
    assert said["compared_with"] == {"nano, zero latents": "nano"}
    gain = said["gains"]["nano, zero latents"]["psnr_y"]
    assert (gain["mean"], gain["clips"]) == (-0.375, 2) and gain["half"] == pytest.approx(12.7062 * 0.125, abs=1e-4)


def test_json_has_the_interval_of_every_mean_and_gain(results):
    said = json.loads(to_json(results, {}))
    assert said["intervals"]["nano"]["psnr_y"] == pytest.approx(12.7062 * 4.5, abs=1e-3)
    assert said["intervals"]["nano"]["psnr_rgb"] is None and said["intervals"]["nano"]["warp_error"] is None
    assert said["gains"]["nano"]["psnr_y"]["half"] == pytest.approx(12.7062 * 0.5, abs=1e-4)
    assert "bicubic" not in said["gains"] and "psnr_rgb" not in said["gains"]["nano"]


def test_csv_and_json_hold_every_figure(results):
    lines = list(csv.DictReader(io.StringIO(to_csv(results, METRICS))))
    assert len(lines) == len(ROWS) and lines[1]["psnr_rgb"] == "inf" and lines[3]["warp_error"] == ""
    said = json.loads(to_json(results, {"frames": 8}))
    assert said["settings"] == {"frames": 8} and said["missing"] == {"lpips": "no weights"}
    assert said["rows"][1]["psnr_rgb"] == "inf" and said["means"]["nano"]["psnr_y"] == 26.5


def test_the_table_of_clips_has_a_line_for_each(results):
    assert clip_table(results, METRICS).count("\n") == len(ROWS) + 2
