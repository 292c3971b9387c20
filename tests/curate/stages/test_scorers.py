"""Scorers with weights, by stand-ins of the same calls; and what is said when they cannot be had."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch

from flashvsr.curate import CurateError
from flashvsr.curate.records import read_records
from flashvsr.curate.rows import Row
from flashvsr.curate.rules import Limit
from flashvsr.curate.run import curate
from flashvsr.curate.stages.scorers import Scorers
from tests.curate.footage import RULES, make_footage, pan

LIMITS = RULES.thresholds | {"aesthetic": Limit(min=0.0), "musiq": Limit(min=0.0)}
WITH_BOTH = replace(RULES, scorers=("aesthetic", "musiq"), thresholds=LIMITS)


@pytest.fixture
def calls(monkeypatch):
    """A pyiqa whose metrics give the mean of a picture; the sizes that each of them saw."""
    seen = {}

    def create_metric(name, device):
        def metric(picture):
            assert picture.dtype == torch.float32
            assert 0 <= picture.amin() <= picture.amax() <= 1
            seen.setdefault(name, []).append(tuple(picture.shape))
            return picture.mean().reshape(1, 1)

        return metric

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric))
    return seen


def looked_at(**more):
    pictures = np.stack(pan(1, 6))
    return Row("/x/a", "a", frames=6, pictures=pictures[:2], later=pictures[2:4], gap=0.08, **more)


def test_musiq_sees_the_whole_and_four_corners_of_each_picture_and_they_are_averaged(calls):
    row = Scorers(WITH_BOTH)(looked_at())
    assert calls["laion_aes"] == [(1, 3, 144, 192)] * 2
    assert calls["musiq"] == ([(1, 3, 144, 192)] + [(1, 3, 72, 96)] * 4) * 2
    mean = float(looked_at().pictures.mean() / 255)
    assert row.scores["aesthetic"] == pytest.approx(mean, rel=1e-5)
    assert row.scores["musiq"] == pytest.approx(mean, rel=1e-5)
    assert row.pictures is None
    assert row.later is None
    assert row.timing["quality"] > 0


def test_a_limit_on_a_scorer_rejects(calls):
    row = Scorers(replace(WITH_BOTH, thresholds=LIMITS | {"musiq": Limit(min=55)}))(looked_at())
    assert row.stage == "quality"
    assert row.reason.startswith("musiq 0.")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory: 57.3 GiB"), AssertionError("too small")])
def test_a_picture_that_a_scorer_cannot_digest_is_rejected_in_words_that_do_not_vary(monkeypatch, error):
    def fail(picture):
        raise error

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=lambda name, device: fail))
    row = Scorers(WITH_BOTH)(looked_at())
    assert (row.stage, row.reason) == ("quality", f"a scorer failed: {type(error).__name__}")
    assert row.pictures is None


def test_a_gpu_that_fails_ends_the_run_and_rejects_nothing(monkeypatch):
    def fail(picture):
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=lambda name, device: fail))
    with pytest.raises(torch.AcceleratorError):
        Scorers(WITH_BOTH)(looked_at())


def test_what_has_no_pictures_passes(calls):
    row = Row("/x/a", "a").rejected("probe", "small")
    assert Scorers(WITH_BOTH)(row) is row
    assert not calls


def test_raft_sees_pictures_of_one_size_in_multiples_of_eight_and_its_flow_is_measured(monkeypatch):
    seen = []

    class Flow(torch.nn.Module):
        def forward(self, first, second):
            seen.append(tuple(first.shape))
            assert -1 <= first.amin() < 0 < first.amax() <= 1
            return [torch.zeros_like(first[:, :2]), torch.full_like(first[:, :2], 3.0)]

    monkeypatch.setattr("torchvision.models.optical_flow.raft_large", lambda weights: Flow())
    row = Scorers(replace(RULES, flow="raft"))(looked_at())
    assert seen == [(1, 3, 360, 480)] * 2
    assert row.scores["motion"] == pytest.approx(100 * np.hypot(3, 3) / 360 / 0.08, rel=1e-4)


def test_the_scorers_that_a_recipe_names_run_in_the_pipeline(calls, tmp_path):
    footage = make_footage(tmp_path / "raw")
    made = curate([footage], tmp_path / "out", WITH_BOTH, workers=0).out
    records, run = read_records(made / "report")
    assert all({"aesthetic", "musiq", "sharpness"} <= one["scores"].keys() for one in records if one["kept"])
    assert run["thresholds"]["musiq"] == {"min": 0.0, "max": None, "unit": "0 to 100"}


def test_a_missing_package_is_named_with_both_ways_out_before_anything_is_made(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    footage = make_footage(tmp_path / "raw")
    with pytest.raises(CurateError, match=r"aesthetic needs pyiqa.*\npip install 'flashvsr\[iqa\]', or leave"):
        curate([footage], tmp_path / "out", WITH_BOTH, workers=0)
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_had_are_named_with_the_way_out(monkeypatch):
    def fail(*arguments, **options):
        raise URLError("no network")

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=fail))
    with pytest.raises(CurateError, match=r"weights of the scorer musiq cannot be had.*no network"):
        Scorers(replace(RULES, scorers=("musiq",)))
    monkeypatch.setattr("torchvision.models.optical_flow.raft_large", fail)
    with pytest.raises(CurateError, match=r"weights of RAFT cannot be had(.|\n)*or set `flow: dis`"):
        Scorers(replace(RULES, flow="raft"))
