"""Overrides of a trained network merge with those before them, and with what the network was trained with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flashvsr.cli import main
from flashvsr.cli.recipe_arguments import RecipeArguments
from flashvsr.models import component
from tests.cli.test_fit import RECIPE, error_of
from tests.small_folder import save_small_system

STAGE2 = ["fit", "-c", "nano/stage2_sparse_causal"]
BASE = {
    "window_hw": [3, 3],
    "boundary": "preserved",
    "sparse_ratio": 0.5,
    "history": 2,
    "rule": "keep_all_when_covered",
}
SMALL_DIT = "--model.decoder={class_path: flashvsr.models.component, init_args: {folder: small, name: dit}}"


@pytest.fixture(autouse=True)
def folder_of_a_small_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_small_system("small")


def attention(capsys, *more):
    """The attention of nano's stage 2 after more arguments."""
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main([*STAGE2, *more, "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    return printed["model"]["init_args"]["dit"]["init_args"]["overrides"]["attention"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.dit.init_args.overrides.attention.init_args.window_hw", "[5,5]"],
        ["--model.dit.init_args.overrides.attention.init_args.window_hw=[5,5]"],
        ["--model.dit.overrides.attention.window_hw=[5,5]"],
        ["-c", "{model: {init_args: {dit: {init_args: {overrides: {attention: {init_args: {window_hw: [5, 5]}}}}}}}}"],
        ["-c", "top.yaml"],
    ],
)
def test_one_argument_of_an_override_changes_and_the_others_stay(arguments, capsys):
    Path("top.yaml").write_text(
        "model: {init_args: {dit: {init_args: {overrides: {attention: {init_args: {window_hw: [5, 5]}}}}}}}"
    )
    changed = attention(capsys, *arguments)
    assert changed == {
        "class_path": "flashvsr.attention.LocalSparseAttention",
        "init_args": BASE | {"window_hw": [5, 5]},
    }


def test_an_override_of_another_class_takes_nothing_of_the_one_before(capsys):
    assert attention(capsys, "-c", "ablations/attention_full") == {"class_path": "flashvsr.attention.FullAttention"}


def test_overrides_within_a_list_are_refused_where_they_would_have_to_merge():
    part = "{class_path: flashvsr.models.component, init_args: {folder: small, name: dit, overrides: {layers: 2}}}"
    once = ["-c", f"{{model: {{init_args: {{networks: [{part}]}}}}}}"]
    assert RecipeArguments(once).recipes
    with pytest.raises(ValueError, match=r"model\.networks\.0\.overrides is said twice"):
        RecipeArguments([*once, *once])


def test_overrides_end_with_the_component_that_they_change(capsys):
    made = "{class_path: flashvsr.models.VideoDiT, init_args: {dim: 256, layers: 1, heads: 4}}"
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main([*STAGE2, f"--model.dit={made}", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["dit"]
    assert printed["class_path"] == "flashvsr.models.VideoDiT" and "overrides" not in printed["init_args"]


def test_overrides_given_with_a_component_on_the_command_line_merge_too(capsys):
    arguments = "{folder: small, name: dit, overrides: {layers: 2, heads: 4}}"
    given = f"{{class_path: flashvsr.models.component, init_args: {arguments}}}"
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main([*STAGE2, f"--model.dit={given}", "--model.dit.overrides.layers=3", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["dit"]["init_args"]
    assert printed["overrides"]["layers"] == 3 and printed["overrides"]["heads"] == 4


def test_what_the_network_was_trained_with_stays_unless_named():
    layer = component("small", "dit", overrides={"attention": {"init_args": {"sparse_ratio": 0.7}}}).blocks[0].self_attn
    trained = component("small", "dit").blocks[0].self_attn
    assert layer.selection.sparse_ratio == 0.7 != trained.selection.sparse_ratio
    kept = [
        (one.history, one.selection.window_hw, one.selection.boundary, one.selection.rule) for one in (layer, trained)
    ]
    assert kept[0] == kept[1]
    assert trained.selection.boundary == "preserved"  # which is not the default of the class


def test_a_part_without_a_class_where_there_is_none_is_refused():
    with pytest.raises(ValueError, match="text_dim has init_args and no class_path"):
        component("small", "dit", overrides={"text_dim": {"init_args": {"history": 1}}})


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("attention.init_args.window_hw=five", ("model.decoder.overrides.attention.window_hw", "five")),
        (
            "attention.init_args.windw_hw=[5,5]",
            ("LocalSparseAttention takes no 'windw_hw'", "did you mean 'window_hw'"),
        ),
        ("attention.class_path=flashvsr.attention.Atention", ("model.decoder.overrides", "Atention")),
        ("ffn_dim=wide", ("model.decoder.overrides.ffn_dim", "int", "wide")),
        ("fn_dim=8", ("VideoDiT takes no 'fn_dim'", "did you mean 'ffn_dim'")),
    ],
)
def test_an_override_of_the_wrong_type_is_one_short_error_before_any_work(option, said, capsys):
    Path("recipe.yaml").write_text(RECIPE)
    message = error_of(capsys, ["fit", "-c", "recipe.yaml", SMALL_DIT, f"--model.decoder.overrides.{option}"])
    for part in said:
        assert part in message


def test_a_run_of_several_recipes_prints_what_they_change_against_the_first(capsys):
    Path("recipe.yaml").write_text(RECIPE)
    Path("top.yaml").write_text(
        "trainer: {logger: {init_args: {name: other}}}\n"
        "model: {init_args: {decoder: {init_args: {channels: [8, 8, 8, 4]}}, scheduler: null}}"
    )
    assert main(["fit", "-c", "recipe.yaml", "-c", "top.yaml", "--trainer.max_steps=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("recipe.yaml is changed by top.yaml:")
    assert lines[start + 1 : start + 5] == [
        "  trainer.logger.name: toy -> other",
        "  trainer.max_steps: 6 -> 3",
        "  model.decoder.channels: [8, 8, 8, 8] -> [8, 8, 8, 4]",
        "  model.scheduler: flashvsr.training.WarmupCosine -> null",
    ]


def test_a_single_recipe_prints_no_changes(capsys):
    Path("recipe.yaml").write_text(RECIPE)
    assert main(["fit", "-c", "recipe.yaml", "--trainer.max_steps=3"]) == 0
    assert "is changed by" not in capsys.readouterr().out
