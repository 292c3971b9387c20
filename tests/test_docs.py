"""README and docs are true: their Python blocks run, their command lines parse, what they name and link to exists."""

from __future__ import annotations

import argparse
import ast
import configparser
import re
import shlex
import sys
import warnings
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import pytest
import torch

import flashvsr
from flashvsr.cli import COMMANDS, RECIPES
from flashvsr.cli.recipes import find_recipe
from tests.test_recipes import ParseOnly

ROOT = Path(__file__).parents[1]
PACKAGE = Path(flashvsr.__file__).parent
PAGES = sorted(
    page
    for folder, pattern in (
        (".", "*.md"),
        ("docs", "**/*.md"),
        ("recipes", "**/*.md"),
        ("benchmarks", "*.md"),
        ("examples", "**/*.md"),
    )
    for page in (ROOT / folder).glob(pattern)
)
README_WORDS = 700
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")
ROOMS = {path.name for folder in (ROOT, PACKAGE) for path in folder.iterdir() if path.is_dir()} - {"runs", "shards"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    code: str
    line: int
    reason: str | None


def blocks_of(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    found = [
        Block(match["language"], match["code"], text[: match.start("code")].count("\n"), match["reason"])
        for match in BLOCK.finditer(text)
    ]
    return [block for block in found if block.language == language]


def spans_of(page: Path) -> list[str]:
    """What stands between single backticks, outside fenced blocks."""
    return SPAN.findall(BLOCK.sub("", page.read_text()))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def commands_of(page: Path) -> list[list[str]]:
    """Commands of the shell blocks, of the text and of the first lines of YAML blocks of a page, split into words."""
    text = "".join(block.code for block in blocks_of(page, "bash")).replace("\\\n", " ")
    lines = text.splitlines() + [span for span in spans_of(page) if span.startswith("flashvsr ") and " -" in span]
    lines += [match[1] for block in blocks_of(page, "yaml") if (match := re.match(r"# \w+\.yaml: (.+)", block.code))]
    commands: list[list[str]] = []
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, "|"]:
            if word.strip("|&;"):
                command.append(word)
            elif command:
                commands.append([command[0].removeprefix(".venv/bin/"), *command[1:]])
                command = []
    return commands


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"flashvsr {command}")
    import_module(f"flashvsr.cli.{command}").add_arguments(parser)
    return parser


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a parser and of the parsers below it."""
    options: set[str] = set()
    for action in parser._actions:
        options |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            options |= {option for below in action.choices.values() for option in options_of(below)}
    return options


def parse(words: list[str]) -> None:
    """Parse a flashvsr command line as the program does; raises SystemExit when it makes no sense."""
    command, arguments = words[0], words[1:]
    if command.startswith("--"):
        assert command in ("--help", "--version")
    elif command in RECIPES:
        ParseOnly(command, arguments)
    else:
        assert command in COMMANDS, f"flashvsr has no command {command}"
        args = parser_of(command).parse_args(arguments)
        if command == "curate" and args.config:
            find_recipe(args.config, "curate")


@pytest.fixture
def folder(tmp_path, monkeypatch, write_clip) -> Path:
    """Where a reader may stand: the project's folders, a short ``in.mp4``, and the YAML blocks that name themselves."""
    for path in ROOT.iterdir():
        if path.is_dir() and not path.name.startswith(".") and path.name not in ("runs", "shards"):
            (tmp_path / path.name).symlink_to(path)
    for path in (ROOT / "examples" / "my_attention").iterdir():  # where its README is read
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_clip(tmp_path / "in.mp4", [Fraction(number, 25) for number in range(3)])
    for block in (block for page in PAGES for block in blocks_of(page, "yaml")):
        named = re.match(r"# (\w+\.yaml)\b", block.code)
        if named:
            (tmp_path / named[1]).write_text(block.code)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "python")], ids=name_of)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, folder):
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(page, "python"):
        if block.reason is None:
            padded = "\n" * block.line + block.code  # so that a traceback names the line of the page
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(padded, str(page), "exec"), namespace)


def test_few_python_blocks_are_not_run():
    unrun = [block for page in PAGES for block in blocks_of(page, "python") if block.reason is not None]
    assert len(unrun) <= 3


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=name_of)
def test_the_command_lines_of_a_page_parse(page, folder, capsys):
    for words in {tuple(words): words for words in commands_of(page) if words[0] == "flashvsr"}.values():
        try:
            parse(words[1:])
        except SystemExit as end:
            assert end.code in (0, None), f"{shlex.join(words)}\n{capsys.readouterr().err}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands_of(page)], ids=name_of)
def test_the_scripts_and_extras_of_a_page_exist(page):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for words in commands_of(page):
        if words[0].startswith("python") and len(words) > 1 and words[1].endswith(".py"):
            source = (ROOT / words[1]).read_text()
            missing = [word for word in words if word.startswith("--") and f'"{word}"' not in source]
            assert not missing or "interleaved" in source, (
                f"{words[1]} has no {missing}"
            )  # which takes arguments for two
        for word in words if words[0] == "pip" else ():
            extras = re.search(r"\[([\w,]+)\]$", word)
            for extra in extras[1].split(",") if extras else ():
                assert setup.has_option("options.extras_require", extra), f"there is no extra {extra}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_options_in_the_text_of_a_page_exist(page):
    known = {"--ckpt_path", "--print_config", "--seed_everything", "--help", "--version", "--strict"}
    for command in set(COMMANDS) - set(RECIPES):
        known |= options_of(parser_of(command))
    for span in spans_of(page):
        for word in span.split() if span.startswith("--") else ():
            option = word.partition("=")[0]
            if option.startswith("--") and not option.startswith(("--trainer.", "--model.", "--data.")):
                assert option in known, f"no command has {option}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_files_that_a_page_names_exist(page):
    words = [word for command in commands_of(page) for word in command] + spans_of(page)
    words += (
        re.findall(r'class="p"[^>]*>([^<]+)<', (ROOT / "docs/house.svg").read_text())
        if page.stem == "architecture"
        else []
    )
    for word in words:
        if "/" in word and word.split("/")[0] in ROOMS and re.fullmatch(r"[\w./*-]+", word):
            places = [ROOT, PACKAGE, page.parent]
            assert any(any(place.glob(word.rstrip("/"))) for place in places), f"there is no {word}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name in (ROOT.name, "recipes", "benchmarks")], ids=name_of
)
def test_the_links_of_a_page_outside_the_site_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path
        assert target.exists(), f"{link} leads nowhere"
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M) if anchor else []
        assert not anchor or anchor in [
            re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings
        ]


def test_readme_stays_at_a_screen_and_a_half():
    assert len((ROOT / "README.md").read_text().split()) <= README_WORDS


def test_the_description_on_a_package_index_links_into_no_repository():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    description = setup["metadata"]["long_description"].removeprefix("file:").strip()
    assert not LINK.findall((ROOT / description).read_text())


def test_every_part_has_a_page_of_the_api():
    parts = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"cli"}
    assert parts <= {page.stem for page in (ROOT / "docs" / "api").glob("*.md")}


def test_the_page_of_ablations_names_all_that_are_shipped():
    spans = spans_of(ROOT / "docs" / "ablations.md")
    assert {file.stem for file in (ROOT / "recipes" / "ablations").glob("*.yaml")} == {
        span.removeprefix("ablations/") for span in spans if span.startswith("ablations/")
    }


def test_the_table_of_rooms_says_who_may_import_whom():
    rows = re.findall(
        r"^\| `(\w+)(?:/|\.py)` \|.*\| ([^|]+) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.M
    )
    said = {
        room: {"*"} if rooms == "everything" else set(rooms.split(", ")) - {"nothing of flashvsr"}
        for room, rooms in rows
    }
    source = ast.parse((ROOT / "tests" / "test_imports.py").read_text())
    (rules,) = (node.value for node in source.body if ast.unparse(node).startswith("MAY_IMPORT ="))
    checked = eval(ast.unparse(rules), {"EVERYTHING": {"*"}})
    assert said == {room: rooms for room, rooms in checked.items() if not room.startswith("__")}
