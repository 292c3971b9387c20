"""What an index would serve: a wheel with its recipes, a source archive that makes the same wheel, their metadata."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import flashvsr
from flashvsr.cli.recipes import recipe_names

ROOT = Path(flashvsr.__file__).parents[1]

pytestmark = pytest.mark.slow  # builds packages, in an environment that pip makes for it, and imports Lightning anew


def python(*arguments, cwd, **environment):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True)


def checkout(folder):
    """The files of the checkout that git tracks or would: builds leave their own beside them."""
    said = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if said.returncode:
        pytest.skip("not a git checkout: which files belong to it is unknown, packages were not built")
    for name in said.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.link(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A wheel, a source archive, and the wheel that is made of the archive."""
    folder = tmp_path_factory.mktemp("packages")
    source = checkout(folder / "checkout")
    backend = "import setuptools.build_meta as backend; print(backend.build_sdist('../sdist'))"
    (folder / "sdist").mkdir()
    done = python("-c", backend, cwd=source)
    assert done.returncode == 0, done.stderr
    (archive,) = (folder / "sdist").glob("*.tar.gz")
    for name, what in (("wheel", source), ("wheel_of_sdist", archive)):
        done = python("-m", "pip", "wheel", "-q", "--no-deps", "-w", folder / name, what, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder, archive


def names_in(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def the_wheel(folder):
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_a_wheel_holds_every_recipe_and_one_of_the_source_archive_is_no_different(packages):
    folder, _ = packages
    names = names_in(the_wheel(folder / "wheel"))
    assert {f"flashvsr/recipes/{name}.yaml" for name in recipe_names()} <= names
    assert {"flashvsr/weights/nano/model.yaml", "flashvsr/py.typed"} <= names
    assert not {name for name in names if name.startswith(("tests/", "recipes/")) or name.endswith(".pyc")}
    assert names == names_in(the_wheel(folder / "wheel_of_sdist"))


def test_the_source_archive_holds_the_tests_and_what_they_read(packages):
    _, archive = packages
    with tarfile.open(archive) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    assert {"tests/conftest.py", "tests/golden/dit.pt", "recipes/nano/vae.yaml", "CHANGELOG.md", "setup.py"} <= names
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert tests <= names


def test_the_metadata_says_who_what_where_and_for_which_systems(packages):
    folder, _ = packages
    wheel = the_wheel(folder / "wheel")
    (metadata,) = (name for name in names_in(wheel) if name.endswith(".dist-info/METADATA"))
    said = Parser().parsestr(zipfile.ZipFile(wheel).read(metadata).decode())
    assert said["Author"] and said["Summary"] and said.get_all("Project-URL")
    assert any(line.startswith("Operating System :: ") for line in said.get_all("Classifier"))
    assert said["Description-Content-Type"] == "text/markdown"


def test_an_index_would_take_the_packages(packages):
    if importlib.util.find_spec("twine") is None:
        pytest.skip("twine is not installed: how an index renders the README was not checked")
    folder, archive = packages
    done = python("-m", "twine", "check", "--strict", the_wheel(folder / "wheel"), archive, cwd=folder)
    assert done.returncode == 0, done.stdout


def test_an_installed_wheel_launches_recipes_from_an_empty_folder(packages, tmp_path):
    folder, _ = packages
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    wheel = the_wheel(folder / "wheel")
    assert python("-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel, cwd=empty).returncode == 0
    where = "import flashvsr; print(flashvsr.__file__)"
    assert str(site) in python("-c", where, cwd=empty, PYTHONPATH=str(site)).stdout

    def command(*arguments):
        return python("-m", "flashvsr", *arguments, cwd=empty, PYTHONPATH=str(site))

    assert "nano/vae " in command("recipes", "list").stdout
    shown = command("fit", "-c", "nano/stage1_joint", "--print_config")
    assert shown.returncode == 0 and "flashvsr.distill.lit.JointStage" in shown.stdout, shown.stderr
    refused = command("fit", "-c", "nano/vae")
    assert refused.returncode == 1 and "no shards match" in refused.stderr
    assert command("recipes", "copy", "nano").returncode == 0 and (empty / "recipes" / "nano" / "vae.yaml").is_file()
