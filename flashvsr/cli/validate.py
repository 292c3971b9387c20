"""Validate a stage on its validation data: ``flashvsr validate -c recipe.yaml --ckpt_path last.ckpt``."""

from __future__ import annotations

from collections.abc import Sequence

from flashvsr.cli.fit import run_recipe


def main(arguments: Sequence[str]) -> int:
    """Run the command with the arguments after its name, and return the exit status."""
    return run_recipe("validate", arguments)
