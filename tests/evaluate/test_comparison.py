"""The table of a test set: the paper beside ours, intervals over clips, nothing dropped."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from flashvsr.evaluate import SUITES, ClipScores, FoundSuite, Results, published, suite_csv, suite_table
from flashvsr.evaluate.intervals import estimates, gains

ROWS = [
    ClipScores(clip, seed, method, {"psnr_y": value + seed, "psnr_rgb": value - 2 + seed})
    for clip, figures in {"000": (20.0, 21.0), "011": (30.0, 31.5), "015": (25.0, 26.0)}.items()
    for seed in (0, 1)
    for method, value in zip(("bicubic", "nano"), figures, strict=True)
]
METRICS = ("psnr", "musiq", "dover")
WHY = {"musiq": "the package pyiqa is not installed", "dover": "no package offers it"}


def _found(name: str = "reds4") -> FoundSuite:
    return FoundSuite(name, SUITES[name], "", {"000": Path("000")})


def _lines(table: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {line[0]: line[1:] for line in lines}


def test_a_clip_counts_once_however_many_seeds_it_has():
    figure = estimates(ROWS)["bicubic"]["psnr_y"]
    assert (figure.mean, figure.clips) == (25.5, 3)
    assert figure.half == pytest.approx(4.30265 * 5 / math.sqrt(3), abs=1e-4)


def test_gains_are_paired_by_clip_so_that_the_spread_between_clips_drops_out():
    gain = gains(ROWS)["nano"]["psnr_y"]
    assert gain.mean == pytest.approx(3.5 / 3)
    assert gain.half == pytest.approx(4.30265 * math.sqrt(1 / 12) / math.sqrt(3), abs=1e-4)
    assert gain.half < estimates(ROWS)["nano"]["psnr_y"].half / 10
    assert "bicubic" not in gains(ROWS)


def test_the_papers_figures_stand_beside_ours_and_what_is_missing_keeps_its_row():
    table = suite_table(Results(ROWS, WHY), METRICS, _found(), "4 clips")
    lines = _lines(table)
    assert lines["metric"] == ["FlashVSR-Full (paper)", "FlashVSR-Tiny (paper)", "bicubic", "nano"]
    assert lines["PSNR ↑"] == ["23.92", "24.11", "23.50 ±12.42", "24.67 ±13.05 (+1.17 ±0.72)"]
    assert lines["PSNR-Y ↑"][:2] == ["-", "-"]
    assert lines["MUSIQ ↑"] == ["68.97", "67.43", "missing", "missing"]
    assert lines["DOVER ↑"] == ["8.734", "8.665", "missing", "missing"]
    assert "musiq is missing: the package pyiqa is not installed" in table
    assert "dover is missing: no package offers it" in table


def test_the_caption_states_the_conventions():
    table = suite_table(Results(ROWS, WHY), METRICS, _found(), "all frames.")
    for words in (
        "REDS4: all frames.",
        "no border cropped",
        "BT.601",
        "95% t-interval over clips (3 clips",
        "torchmetrics",
    ):
        assert words in table
    assert "whether its PSNR and SSIM are of luma or RGB" in table and "says REDS, and not which clips" in table
    assert "PSNR and SSIM: torchmetrics" in suite_table(Results(ROWS), ("ssim",), _found(), "")


def test_a_single_clip_has_no_interval():
    rows = [row for row in ROWS if row.clip == "000"]
    table = suite_table(Results(rows), ("psnr",), _found(), "")
    assert "±" not in table and "which has no interval" in table
    assert _lines(table)["PSNR ↑"][2:] == ["18.50", "19.50 (+1.00)"]


def test_an_infinite_figure_has_neither_interval_nor_gain():
    rows = [
        ClipScores(clip, 0, name, {"psnr_rgb": value})
        for clip in "ab"
        for name, value in (("bicubic", 30.0), ("x", math.inf))
    ]
    assert _lines(suite_table(Results(rows), ("psnr",), _found(), ""))["PSNR ↑"][2:] == ["30.00 ±0.00", "inf"]


def test_a_suite_without_published_figures_says_so():
    table = suite_table(Results(ROWS), ("psnr",), _found("udm10"), "")
    assert _lines(table)["metric"] == ["bicubic", "nano"] and "The paper has no figures for these clips" in table


def test_csv_holds_every_figure_with_its_source():
    text = suite_csv(Results(ROWS, WHY), METRICS, _found())
    lines = {(line["column"], line["method"]): line for line in csv.DictReader(io.StringIO(text))}
    assert lines["psnr_rgb", "FlashVSR-Full (paper)"]["source"] == "paper"
    nano = lines["psnr_y", "nano"]
    assert float(nano["mean"]) == pytest.approx(80 / 3) and nano["clips"] == "3" and float(nano["gain"]) > 1
    missing = lines["musiq", "nano"]
    assert missing["mean"] == "" and missing["missing"] == WHY["musiq"] and missing["clips"] == "0"
    assert ("psnr_y", "FlashVSR-Full (paper)") not in lines


def test_the_papers_figures_are_for_the_suites_there_are():
    assert {name for name in SUITES if published(name)} == {"reds4", "youhq40", "spmcs", "videolq"}
    assert published("videolq")["FlashVSR-Tiny (paper)"] == {"musiq": 52.27, "clipiqa": 0.3601, "dover": 7.481}
