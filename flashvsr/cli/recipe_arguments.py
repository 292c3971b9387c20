"""What stands on the command line of a recipe before Lightning parses it: which files are meant."""

from __future__ import annotations

from collections.abc import Sequence

from flashvsr.cli.recipes import find_recipe

CONFIG = ("-c", "--config")


def with_files(arguments: Sequence[str]) -> list[str]:
    """Replace names of packaged recipes by their files.

    Args:
        arguments: As on the command line, after the name of the command.

    Returns:
        The same with a path after every ``-c``; YAML given in place of a file is left as it is.

    Raises:
        FileNotFoundError: If there is neither a file nor a packaged recipe of a name.
    """
    return [
        f"{start}{value if _is_yaml(value) else find_recipe(value)}" if value is not None else start
        for start, value in _recipes(arguments)
    ]


def _recipes(arguments: Sequence[str]) -> list[tuple[str, str | None]]:
    """Every argument; one that names a recipe is split into what comes before the name, and the name."""
    split: list[tuple[str, str | None]] = []
    previous = ""
    for argument in arguments:
        if previous in CONFIG:
            split.append(("", argument))
        elif argument.startswith("--config="):
            split.append(("--config=", argument.removeprefix("--config=")))
        else:
            split.append((argument, None))
        previous = argument
    return split


def _is_yaml(value: str) -> bool:
    return any(sign in value for sign in "\n{:")
