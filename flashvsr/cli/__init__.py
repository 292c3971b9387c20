"""The command ``flashvsr``: one file of this folder per command.

A command's file has ``add_arguments(parser)`` and ``run(args) -> int``, the exit status; those that take a recipe have
``main(arguments) -> int`` instead. It is imported when the
command is used, and imports torch only when it runs: ``--help`` is instant.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from flashvsr import __version__

COMMANDS = {
    "upscale": "a video goes in, a 4x video comes out",
    "live": "a stream from the network or a device goes in, a larger one comes out",
    "app": "a web page on this computer that upscales videos and pictures",
    "fit": "train a stage from a recipe",
    "validate": "run the validation of a recipe on a checkpoint",
    "evaluate": "quality of models on clips with a known answer, in a table and pictures",
    "ablate": "train variants of a recipe, evaluate all, and make one table of them",
    "degrade": "a good video goes in, a small one with the faults of real video comes out",
    "info": "what this installation can run here, and why not the rest",
    "shards": "write training shards from videos and images, or look into them",
    "curate": "raw videos and photographs go in, the good parts come out as shards, with a report",
    "bench": "speed and memory of each part of a model",
    "recipes": "list, print or copy the packaged recipes",
    "completion": "print a script that completes commands in bash or zsh",
}

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables that say how PyTorch allocates the memory of a GPU. Unless one is set, its segments can grow: tensors of a
stream's first chunk are larger than the others, and what is left over between segments of fixed size is lost."""

RECIPES = ("fit", "validate")
"""Commands whose arguments are those of a recipe: they are parsed by Lightning."""


def import_from_working_directory() -> None:
    """Let modules of the working directory be imported, as `python -m` does; the command does it for trusted code."""
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
        sys.path.insert(0, os.getcwd())  # noqa: PTH109


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name; None takes those of the process.

    Returns:
        The exit status: 0 when all went well, 1 for an error, 130 when interrupted.

    Raises:
        SystemExit: From argparse: status 0 after ``--help`` and ``--version``, 2 for arguments that make no sense.
    """
    parser = argparse.ArgumentParser(prog="flashvsr", description="Streaming diffusion video super-resolution.")
    parser.add_argument("--version", action="version", version=f"flashvsr {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    parsers = {name: commands.add_parser(name, help=summary) for name, summary in COMMANDS.items()}
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    if arguments is None:
        arguments = sys.argv[1:]
    chosen = arguments[0] if arguments else None
    if chosen in RECIPES:
        _let_segments_grow("")
        return import_module(f"flashvsr.cli.{chosen}").main(arguments[1:])
    if chosen in COMMANDS:
        command = import_module(f"flashvsr.cli.{chosen}")
        parsers[chosen].description = command.__doc__
        command.add_arguments(parsers[chosen])
    args = parser.parse_args(arguments)
    _let_segments_grow("" if getattr(args, "segments", None) else getattr(args, "device", ""))
    if getattr(args, "trust_code", False):
        import_from_working_directory()
    try:
        status = import_module(f"flashvsr.cli.{args.command}").run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # as of `flashvsr info | head`: what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _let_segments_grow(device: str) -> None:
    """Have PyTorch's segments of GPU memory grow, which wastes less, unless the user or several GPUs want otherwise."""
    several = "," in device or device == "cuda:*"
    if not several and not any(name in os.environ for name in ALLOCATOR):
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"
