"""What an index would serve, and what README says of it: from a wheel installed in an empty folder, without a checkout.

A wheel with its recipes, a source archive that makes the same wheel and holds its tests, and their metadata.
"""

from __future__ import annotations

import importlib.util
import os
import re
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
BUILD = "import sys, setuptools.build_meta as backend; [getattr(backend, 'build_' + kind)('../' + kind) for kind in {}]"


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
    """Folder of a wheel, a source archive, and the wheel that is made of what the archive holds."""
    folder = tmp_path_factory.mktemp("packages")
    for kind in ("sdist", "wheel", "archive/wheel"):
        (folder / kind).mkdir(parents=True)
    done = python("-c", BUILD.format(("sdist", "wheel")), cwd=checkout(folder / "checkout"))
    assert done.returncode == 0, done.stderr
    with tarfile.open(*(folder / "sdist").glob("*.tar.gz")) as held:
        held.extractall(folder / "archive", filter="data")
    (unpacked,) = (folder / "archive").glob("flashvsr-*")
    done = python("-c", BUILD.format(("wheel",)), cwd=unpacked)
    assert done.returncode == 0, done.stderr
    return folder


def names_in(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def the_wheel(folder):
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_a_wheel_holds_every_recipe_and_one_of_the_source_archive_is_no_different(packages):
    names = names_in(the_wheel(packages / "wheel"))
    assert {f"flashvsr/recipes/{name}.yaml" for name in recipe_names()} <= names
    assert {"flashvsr/weights/nano/model.yaml", "flashvsr/py.typed"} <= names
    assert not {name for name in names if name.startswith(("tests/", "recipes/")) or name.endswith(".pyc")}
    assert names == names_in(the_wheel(packages / "archive" / "wheel"))


def test_the_source_archive_holds_the_tests_and_what_they_read(packages):
    with tarfile.open(*(packages / "sdist").glob("*.tar.gz")) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    assert {"tests/golden/dit.pt", "recipes/nano/vae.yaml", "CHANGELOG.md", "setup.py", "mkdocs.yml"} <= names
    for folder in ("tests", "examples", "integrations", "benchmarks", "docs"):
        held = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.*") if path.suffix != ".pyc"}
        assert {name for name in held if name.endswith((".py", ".md", ".toml", ".yaml"))} <= names


@pytest.mark.slow  # every test module is imported
def test_the_tests_of_the_source_archive_run_where_it_was_unpacked(packages):
    (unpacked,) = (packages / "archive").glob("flashvsr-*")
    some = "test_masks or test_recipes_ or test_the_links or test_public_names"
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", some, cwd=unpacked, PYTHONPATH=str(unpacked))
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout.splitlines()[-1]


def test_the_metadata_says_who_what_where_and_for_which_systems(packages):
    wheel = the_wheel(packages / "wheel")
    (metadata,) = (name for name in names_in(wheel) if name.endswith(".dist-info/METADATA"))
    said = Parser().parsestr(zipfile.ZipFile(wheel).read(metadata).decode())
    assert said["Author"] and said["Summary"] and said.get_all("Project-URL")
    assert {"Operating System :: POSIX :: Linux", "Typing :: Typed"} <= set(said.get_all("Classifier"))
    assert said["License-Expression"] == "Apache-2.0"
    assert said.get_all("License-File") == ["LICENSE", "flashvsr/weights/nano/CREDITS.md"]
    assert said["Description-Content-Type"] == "text/markdown"
    assert not re.findall(r"\]\((?!https?://)", said.get_payload()), "an index has no files that links could lead to"


def test_an_index_would_take_the_packages(packages):
    if importlib.util.find_spec("twine") is None:
        pytest.skip("twine is not installed: how an index renders the README was not checked")
    files = [*(packages / "wheel").iterdir(), *(packages / "sdist").iterdir()]
    done = python("-m", "twine", "check", "--strict", *files, cwd=packages)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def site(packages):
    """Where pip installed the wheel, away from any checkout."""
    site = packages / "site"
    done = python("-m", "pip", "install", "-q", "--no-deps", "-t", site, the_wheel(packages / "wheel"), cwd=packages)
    assert done.returncode == 0, done.stderr
    return site


def test_the_installed_command_lists_and_copies_recipes(site, tmp_path):
    def command(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(site)}
        command = [site / "bin" / "flashvsr", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert "nano/vae " in command("recipes", "list").stdout
    assert command("recipes", "copy", "nano").returncode == 0 and (tmp_path / "recipes/nano/vae.yaml").is_file()


def test_the_three_usages_of_readme_work_as_written_from_an_installed_wheel_in_an_empty_folder(site, tmp_path):
    done = python(ROOT / "tests" / "run_readme.py", ROOT, site, cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
