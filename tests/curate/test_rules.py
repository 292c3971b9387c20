from __future__ import annotations

from pathlib import Path

import pytest

import flashvsr
from flashvsr.curate import CurateError
from flashvsr.curate.rules import UNITS, CurateRules, Limit, read_rules

RECIPES = Path(flashvsr.__file__).parents[1] / "recipes" / "curate"


def test_the_small_recipe_states_the_defaults():
    assert read_rules(RECIPES / "small.yaml") == CurateRules()
    assert not CurateRules().scorers


def test_the_papers_recipe_asks_for_its_scorers_and_sizes():
    rules = read_rules(RECIPES / "vsr120k.yaml")
    assert rules.scorers == ("aesthetic", "musiq")
    assert rules.flow == "raft"
    assert (rules.segment_seconds, rules.frames) == (8, 4)
    assert rules.why_not("photo_short_side", 1024) == "photo_short_side 1024 < 1025 pixels"
    assert rules.why_not("photo_short_side", 1025) is None
    assert rules.why_not("short_side", 1079) is not None


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_says_its_command_what_it_needs_and_every_value(recipe):
    text = recipe.read_text()
    assert f"flashvsr curate SOURCES --out shards -c curate/{recipe.stem}" in text
    assert "# Needs: pip install 'flashvsr[curate" in text
    for line in text.splitlines():
        assert line.startswith("#") or "#" in line or "unit:" in line or line == "thresholds:", f"no unit: {line}"
    said = {line.partition(":")[0] for line in text.splitlines() if line[0] not in "# "}
    assert said == vars(CurateRules()).keys() - {"name"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sharpness: 3", r"unknown \['sharpness'\]\nexpected of clip_seconds"),
        ("thresholds: {beauty: {min: 3, unit: '%'}}", "unknown score 'beauty'\nexpected of short_side"),
        ("thresholds: {sharpness: {min: 3}}", r"expected \{min: NUMBER, max: NUMBER, unit: %\}"),
        ("thresholds: {seconds: {min: 3, unit: min}}", "seconds is measured in 's', not 'min'"),
        ("thresholds: {musiq: {min: 3, unit: 0 to 100}}", "a limit on musiq, which `scorers` does not list"),
        ("scorers: [niqe]", "unknown 'niqe'\nexpected of aesthetic, musiq"),
        ("flow: farneback", "unknown 'farneback'\nexpected of dis, raft"),
        ("val_fraction: 1", "val_fraction=1\nexpected a share"),
        ("clip_seconds: 0", "clip_seconds=0\nexpected more than 0"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_way_out(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(CurateError, match=message):
        read_rules(tmp_path / "mine.yaml")


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(CurateError, match="no such recipe"):
        read_rules(tmp_path / "mine.yaml")


def test_both_bounds_of_a_limit_are_inside():
    rules = CurateRules(thresholds={"exposure": Limit(4, 96)})
    assert [rules.why_not("exposure", value) for value in (4, 50, 96)] == [None] * 3
    assert rules.why_not("exposure", 3.99) == "exposure 3.99 < 4 %"
    assert rules.why_not("exposure", 97) == "exposure 97 > 96 %"
    assert rules.why_not("motion", -1) is None
    assert set(CurateRules().thresholds) <= set(UNITS)
