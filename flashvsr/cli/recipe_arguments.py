"""What stands on the command line of a recipe, before Lightning parses it: files, trust, and overrides that merge."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from flashvsr.cli.recipes import find_recipe
from flashvsr.models.class_paths import merge_arguments

CONFIG = ("-c", "--config")
TRUST = ("--trust-code", "--trust_code")
OVERRIDES = "overrides"
"""The argument of ``flashvsr.models.component`` that merges; to Lightning's parser it is a value to be replaced."""


@dataclass
class RecipeArguments:
    """A command line of a recipe, taken apart.

    Args:
        given: As on the command line, after the name of the command.

    Attributes:
        recipes: The files of ``-c``, or YAML given in place of one, in their order.
        arguments: What Lightning's parser takes: files in place of names of recipes, one whole ``overrides`` in place
            of its pieces.
        trust_code: Whether classes outside flashvsr are trusted, by a recipe or an option.

    Raises:
        FileNotFoundError: If there is neither a file nor a packaged recipe of a name.
        ValueError: If a file is not YAML, or overrides within a list are said twice, which do not merge.
    """

    given: Sequence[str]
    recipes: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    trust_code: bool = False

    def __post_init__(self) -> None:
        self._merged: dict[str, Any] = {}
        self._classes: dict[str, str] = {}
        self._pieces: dict[str, int] = {}
        self._in_lists: set[str] = set()
        for option, value in _pairs(self.given):
            self._take(option, value)
        for key, count in self._pieces.items():
            if count > 1:
                self.arguments.append(f"--{key}.{OVERRIDES}={json.dumps(self._merged[key])}")

    def _take(self, option: str, value: str | None) -> None:
        """Keep one option, after looking into it."""
        key, _, rest = option.removeprefix("--").replace(".init_args", "").partition(f".{OVERRIDES}")
        if option in CONFIG and value is not None:
            value = value if _is_yaml(value) else str(find_recipe(value))
            self.recipes.append(value)
            self._read(value)
        elif option in TRUST:
            self.trust_code = value is None or _value(value) is True
            self.arguments.append(TRUST[0] if value is None else f"{TRUST[0]}={value}")
            return
        elif value is not None and option.startswith("--") and f".{OVERRIDES}" in option:
            piece = _value(value)
            for part in reversed(rest.strip(".").split(".") if rest else []):
                piece = {part: piece}
            self._add(key, piece, pieces=2)
            return
        elif value is not None and option.startswith("--"):
            said = _value(value)
            if isinstance(said, Mapping):
                self._look(said, key)
            elif isinstance(said, str):
                self._name(key.removesuffix(".class_path"), said)
        self.arguments += (
            [option] if value is None else [f"{option}={value}"] if option[:2] == "--" else [option, value]
        )

    def _read(self, recipe: str) -> None:
        """Look into a file."""
        text = recipe if _is_yaml(recipe) else Path(recipe).read_text(encoding="utf-8")
        try:
            said = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{recipe} is not YAML: {error}") from error
        if isinstance(said, Mapping):
            self.trust_code = said.get("trust_code", self.trust_code) is True
            self._look(said, "")

    def _look(self, said: Mapping[str, Any], where: str) -> None:
        """Note the classes and the overrides that a mapping names."""
        for key in _overrides_in_lists(said, where):
            if key in self._in_lists:
                raise ValueError(f"{key} is said twice, and overrides within a list do not merge: say all in one place")
            self._in_lists.add(key)
        for key, part in _mappings(said, where):
            if isinstance(part.get("class_path"), str):
                self._name(key, part["class_path"])
            arguments = part.get("init_args")
            if isinstance(arguments, Mapping) and OVERRIDES in arguments:
                self._add(key, arguments[OVERRIDES], pieces=1)

    def _name(self, key: str, class_path: str) -> None:
        """A part gets a class; with another one it loses the overrides it had."""
        if self._classes.get(key, class_path) != class_path:
            self._merged.pop(key, None)
            self._pieces.pop(key, None)
        self._classes[key] = class_path

    def _add(self, key: str, piece: Any, *, pieces: int) -> None:
        """Lay overrides on those there are."""
        there = self._merged.get(key)
        if isinstance(there, Mapping) and isinstance(piece, Mapping):
            piece = merge_arguments(there, piece)
        self._merged[key] = piece
        self._pieces[key] = self._pieces.get(key, 0) + pieces


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Options with their values; None for one without."""
    rest = iter(range(len(arguments)))
    for index in rest:
        option = arguments[index]
        name, equals, value = option.partition("=")
        following = arguments[index + 1] if index + 1 < len(arguments) else None
        if equals and option.startswith("--"):
            yield name, value
        elif option.startswith("-") and following is not None and not following.startswith("--") and option != "-h":
            if option in TRUST and following.lower() not in ("true", "false"):
                yield option, None
                continue
            next(rest)
            yield option, following
        else:
            yield option, None


def _value(text: str) -> Any:
    """What a value of the command line is; text that is no YAML stays text, for the parser to judge."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _mappings(said: Mapping[str, Any], key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping with its key, in which ``init_args`` is left out; lists are passed over."""
    yield key, said
    for name, value in said.items():
        if isinstance(value, Mapping) and name != OVERRIDES:
            yield from _mappings(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))


def _overrides_in_lists(said: Any, key: str, within: bool = False) -> Iterator[str]:
    """Keys of the overrides of the entries of lists."""
    if isinstance(said, list):
        for index, entry in enumerate(said):
            yield from _overrides_in_lists(entry, f"{key}.{index}", True)
    elif isinstance(said, Mapping):
        for name, value in said.items():
            inner = key if name == "init_args" else f"{key}.{name}".lstrip(".")
            if name == OVERRIDES and within:
                yield inner
            else:
                yield from _overrides_in_lists(value, inner, within)


def _is_yaml(value: str) -> bool:
    return any(sign in value for sign in "\n{:")
