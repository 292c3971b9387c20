"""List the packaged recipes, print one, or copy some to edit them.

`flashvsr fit -c nano/vae` and `flashvsr curate -c small` take them by name; a file of that path comes first.
"""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
FOLDERS = (HERE / "recipes", HERE.parent / "recipes")
"""Where the recipes lie: in an installed wheel, and in a checkout."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr recipes`` takes."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="names of all, and what each does")
    show = actions.add_parser("show", help="print one")
    show.add_argument("name", help="such as nano/vae")
    copy = actions.add_parser("copy", help="copy one, or a folder of them, to edit")
    copy.add_argument("name", help="such as nano/vae, or nano for all of that folder")
    copy.add_argument("target", nargs="?", type=Path, help="file or folder to make (default: recipes/NAME)")


def run(args: argparse.Namespace) -> int:
    """List, print or copy, and return the exit status."""
    try:
        if args.action == "list":
            width = max(map(len, recipe_names()))
            for name in recipe_names():
                print(f"{name:{width}}  {summary(find_recipe(name))}")
        elif args.action == "show":
            print(find_recipe(args.name).read_text(encoding="utf-8"), end="")
        else:
            print(f"{copy_recipes(args.name, args.target)} is yours to edit")
    except OSError as error:
        print(f"flashvsr: {error}", file=sys.stderr)
        return 1
    return 0


def recipes_folder() -> Path:
    """The folder of the packaged recipes.

    Raises:
        FileNotFoundError: If this installation has none.
    """
    for folder in FOLDERS:
        if (folder / "nano" / "vae.yaml").is_file():
            return folder
    raise FileNotFoundError(f"this installation has no recipes: neither {' nor '.join(map(str, FOLDERS))} holds them")


def recipe_names() -> list[str]:
    """Names of the packaged recipes: ``nano/vae`` and so on."""
    folder = recipes_folder()
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))


def find_recipe(name: str, family: str | None = None) -> Path:
    """The file of a recipe.

    Args:
        name: A path, which comes first; or the name of a packaged recipe, with or without ``.yaml``.
        family: Folder of packaged recipes that `name` may leave out.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: If there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    names = recipe_names()
    wanted = name.removesuffix(".yaml")
    for candidate in (wanted, f"{family}/{wanted}"):
        if candidate in names:
            return recipes_folder() / f"{candidate}.yaml"
    near = difflib.get_close_matches(f"{family}/{wanted}" if family else wanted.removeprefix("recipes/"), names, 1)
    hint = f": did you mean the packaged {near[0]}?" if near else ";"
    raise FileNotFoundError(f"there is no recipe {name}{hint} `flashvsr recipes list` names those that are packaged")


def summary(recipe: Path) -> str:
    """What a recipe does: the first line of its header."""
    with recipe.open(encoding="utf-8") as lines:
        return next(lines).removeprefix("#").strip()


def made_by(folder: str) -> str | None:
    """The command that makes a model folder, from the header of a packaged recipe; None without one."""
    for name in recipe_names():
        header = [line for line in find_recipe(name).read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        leaves = rf"Leaves (the model folder )?{re.escape(folder)}(?![\w/])"
        commands = [line.lstrip("# ") for line in header if "flashvsr fit -c" in line]
        if commands and re.search(leaves, "\n".join(header)):
            return re.split(r" +[\[#]", commands[0])[0]
    return None


def copy_recipes(name: str, target: Path | None = None) -> Path:
    """Copy a packaged recipe, or a folder of them.

    Args:
        name: Of a recipe, or of a folder such as ``nano``.
        target: File or folder to make; None is ``recipes/NAME`` in the working directory.

    Returns:
        What was made.

    Raises:
        FileExistsError: If the target exists.
        FileNotFoundError: If there is no such recipe.
    """
    source = recipes_folder() / name
    folder = name in {recipe.partition("/")[0] for recipe in recipe_names()}
    if not folder:
        source = recipes_folder() / f"{name.removesuffix('.yaml')}.yaml"
        if not source.is_file():
            find_recipe(name)  # says what there is
            raise FileNotFoundError(f"{name} is no packaged recipe")
    target = target or Path("recipes", source.relative_to(recipes_folder()))
    if target.exists():
        raise FileExistsError(f"{target} exists: name another target, or move it away")
    target.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("logs", "__pycache__"))
    else:
        shutil.copyfile(source, target)
    return target
