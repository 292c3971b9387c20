"""The training benchmark runs at toy size and counts what it says."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("training_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(script, monkeypatch, out: Path, *arguments: str) -> dict[str, dict]:
    command = [str(SCRIPT), "--tiny", "--in-process", "--lora=0", f"--out={out}", *arguments]
    monkeypatch.setattr(sys, "argv", command)
    assert script.main() == 0
    return {row["stage"]: row for row in json.loads(out.read_text())["rows"]}


def test_it_measures_sparse_and_one_step_training(script, monkeypatch, tmp_path):
    rows = _rows(script, monkeypatch, tmp_path / "rows.json", "--stages", "sparse", "one_step")
    assert list(rows) == ["sparse", "one_step: fake score", "one_step: generator and fake score"]
    assert rows["sparse"]["seconds"] > rows["sparse"]["encode_seconds"] > 0
    assert rows["one_step: generator and fake score"]["teraflops"] > 2 * rows["one_step: fake score"]["teraflops"] * 0.8


def test_its_count_of_operations_is_the_formula_at_the_top(script, monkeypatch, tmp_path):
    rows = _rows(script, monkeypatch, tmp_path / "rows.json", "--stages", "dense", "--steps=1")
    tokens, dim, ffn, layers, prompt = 4 * 64, 32, 64, 2, 8
    attention = layers * 4 * dim * (tokens**2 + tokens * prompt)
    per_token = layers * (6 * dim**2 + 2 * dim * ffn) + 2 * 64 * dim  # blocks, patch embedding and head
    projection = 2 * 8 * 36 * 768 + 8 * 36 * 8 + 8 * 32
    expected = 3 * (attention + 2 * tokens * (per_token + projection))
    assert rows["dense"]["teraflops"] * 1e12 == pytest.approx(expected, rel=1e-6)
