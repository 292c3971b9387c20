"""Print a script that completes commands, options and file names in a shell.

bash: flashvsr completion bash > ~/.local/share/bash-completion/completions/flashvsr

zsh: flashvsr completion zsh > ~/.zfunc/_flashvsr, where ~/.zfunc is in $fpath before compinit runs.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

SHELLS = ("bash", "zsh", "tcsh")
PATHS = ("PATH", "FOLDER", "FILE", "INPUT", "OUTPUT", "MODEL", "OUT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr completion`` takes."""
    parser.add_argument("shell", choices=SHELLS, help="whose script to print")


def run(args: argparse.Namespace) -> int:
    """Print the script and return the exit status."""
    try:
        import shtab
    except ImportError:
        print("flashvsr: completion needs shtab: pip install 'flashvsr[completion]'", file=sys.stderr)
        return 1
    print(shtab.complete(whole_parser(shtab.FILE), args.shell))
    return 0


def whole_parser(complete_files: object) -> argparse.ArgumentParser:
    """A parser that knows the options of all commands; those that are keys of recipes are not among them.

    Args:
        complete_files: What arguments that are paths get as their ``complete``.
    """
    from flashvsr.cli import COMMANDS, RECIPES

    parser = argparse.ArgumentParser(prog="flashvsr")
    parser.add_argument("--version", action="version", version="")
    commands = parser.add_subparsers()
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name in RECIPES:
            command.add_argument("-c", "--config", metavar="PATH")
            command.add_argument("--print_config", action="store_true")
        else:
            import_module(f"flashvsr.cli.{name}").add_arguments(command)
        for action in command._actions:
            shown = action.metavar if isinstance(action.metavar, str) else action.dest
            if action.choices is None and shown.upper() in PATHS:
                action.complete = complete_files  # type: ignore[attr-defined]
    return parser
