"""`flashvsr recipes`, and recipes by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashvsr.cli import main
from flashvsr.cli.recipes import find_recipe, recipe_names, recipes_folder


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_list_names_every_recipe_and_what_it_does(capsys):
    assert main(["recipes", "list"]) == 0
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert {name.rstrip() for name in said} == set(recipe_names())
    assert {"nano/vae", "wan_1b/stage3_one_step", "ablations/control", "curate/small"} <= set(recipe_names())
    assert all(len(summary.strip()) > 20 and summary.endswith(".") for summary in said.values())  # whole sentences


def test_show_prints_the_recipe(capsys):
    assert main(["recipes", "show", "nano/vae"]) == 0
    assert capsys.readouterr().out == (recipes_folder() / "nano" / "vae.yaml").read_text()


def test_copy_makes_a_file_or_a_folder_and_replaces_nothing(capsys):
    assert main(["recipes", "copy", "nano/vae"]) == 0
    assert Path("recipes/nano/vae.yaml").read_text() == find_recipe("nano/vae").read_text()
    assert main(["recipes", "copy", "ablations", "mine"]) == 0
    copied = {f"ablations/{file.stem}" for file in Path("mine").iterdir()}
    assert copied == {name for name in recipe_names() if name.startswith("ablations/")}
    Path("mine/control.yaml").write_text("mine")
    assert main(["recipes", "copy", "ablations", "mine"]) == 1
    assert main(["recipes", "copy", "nano/vae", "mine/control.yaml"]) == 1
    assert "mine/control.yaml exists" in capsys.readouterr().err
    assert Path("mine/control.yaml").read_text() == "mine"


@pytest.mark.parametrize("action", ["show", "copy"])
def test_a_recipe_that_is_not_there_is_answered_with_the_nearest(action, capsys):
    assert main(["recipes", action, "nano/vea"]) == 1
    assert "did you mean the packaged nano/vae?" in capsys.readouterr().err


def test_a_packaged_recipe_is_found_by_its_name_and_a_file_of_that_path_comes_first():
    assert find_recipe("nano/vae") == find_recipe("nano/vae.yaml") == recipes_folder() / "nano" / "vae.yaml"
    assert find_recipe("small", "curate") == find_recipe("curate/small")
    Path("nano").mkdir()
    Path("nano/vae").write_text("")
    assert find_recipe("nano/vae") == Path("nano/vae")


def test_fit_takes_packaged_recipes_by_name(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "-c", "nano/decoder", "--config=ablations/control", "--print_config"])
    said = capsys.readouterr().out
    assert "name: decoder_control" in said and "max_steps: 6000" in said


@pytest.mark.parametrize("name", ["nano/vea", "recipes/nano/vae.yaml"])
def test_fit_refuses_a_name_that_is_neither_file_nor_packaged(name, capsys):
    assert main(["fit", "-c", name]) == 1
    said = capsys.readouterr().err
    assert f"there is no recipe {name}: did you mean the packaged nano/vae?" in said


def test_curate_takes_a_packaged_recipe_by_name(sources, capsys):
    assert main(["curate", str(sources), "--out", "shards", "-c", "smal", "--workers", "0"]) == 1
    assert "there is no recipe smal: did you mean the packaged curate/small?" in capsys.readouterr().err
    main(["curate", str(sources), "--out", "shards", "-c", "small", "--workers", "0"])
    assert "short_side 96 < 480 pixels" in capsys.readouterr().out
