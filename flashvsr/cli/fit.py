"""Train a stage: ``flashvsr fit -c recipe.yaml [-c more.yaml] [--key value ...] [--ckpt_path last]``."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from flashvsr.cli import import_from_working_directory
from flashvsr.cli.recipe_arguments import RecipeArguments
from flashvsr.cli.recipe_checks import (
    SameRecipe,
    Started,
    check_checkpoint,
    check_clips,
    check_run,
    check_samples,
    prepare_components,
    try_optimizers,
)
from flashvsr.cli.recipe_diff import changes
from flashvsr.cli.recipe_errors import nearest_key, shorten
from flashvsr.cli.training_progress import TrainingProgress
from flashvsr.data.tar_samples import ShardError
from flashvsr.models.lit import ExportModelFolder
from flashvsr.training.callbacks import LastCheckpoint

KEYWORDS = ("last", "best")
"""Values of ``--ckpt_path`` that are not paths."""

REFUSALS = (OSError, ValueError, ImportError, RuntimeError, MisconfigurationException, ShardError)
"""What parts of a recipe raise before the first batch: a missing file, a wrong argument, weights that do not fit."""


class RecipeParser(LightningArgumentParser):
    """Lightning's parser with errors of a few lines."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and where, and exit with status 2; the parser of a part hands it on."""
        if not self.exit_on_error:
            super().error(message, ex)
        known = [action.dest for action in self._actions]
        sys.stderr.write(f"{self.prog}: error: {shorten(message)}{nearest_key(message, known)}\n")
        raise SystemExit(2)


class RecipeCLI(LightningCLI):
    """Lightning's command line over our recipes: any LightningModule, any data module, relative ``${...}``.

    Args:
        command: ``"fit"`` or ``"validate"``.
        arguments: As on the command line, after the name of the command.
    """

    def __init__(self, command: str, arguments: Sequence[str]) -> None:
        self.command = command
        self.said = RecipeArguments(arguments)
        if self.said.trust_code:
            import_from_working_directory()
        super().__init__(
            args=self.said.arguments,
            run=False,
            parser_class=RecipeParser,
            parser_kwargs={"parser_mode": "omegaconf+", "prog": f"flashvsr {command}"},
            auto_configure_optimizers=False,
            seed_everything_default=0,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add ``--ckpt_path`` and ``--trust-code``."""
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="Checkpoint to go on from, or 'last'.")
        parser.add_argument(
            "--trust-code", type=bool, nargs="?", const=True, default=False,
            help="Let model folders and overrides name classes outside flashvsr, of the working directory too.",
        )  # fmt: skip

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments; Lightning would warn that they are not those of the process."""
        self.config = parser.parse_args(args)

    def before_instantiate_classes(self) -> None:
        """Check networks from model folders; overwrite the saved recipe of a run only to go on with it."""
        ckpt_path = self.config.ckpt_path
        if ckpt_path is not None and ckpt_path not in KEYWORDS and not Path(ckpt_path).exists():
            raise FileNotFoundError(f"--ckpt_path: there is no {ckpt_path}")
        if ckpt_path is not None and Path(ckpt_path).is_file():
            check_checkpoint(Path(ckpt_path))
        prepare_components(self.config.model, self.config.trust_code)
        self.save_config_kwargs = {"overwrite": ckpt_path is not None or self.command != "fit"}

    def instantiate_trainer(self, **arguments: Any) -> Trainer:
        """Build the trainer, in a training with our progress bar unless the recipe has another one or none."""
        said = self.config_init.trainer
        given = said.callbacks or []
        callbacks = given if isinstance(given, list) else [given]
        wanted = self.command == "fit" and said.enable_progress_bar is not False and not said.barebones
        if wanted and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            arguments["callbacks"] = [*callbacks, TrainingProgress()]
        return super().instantiate_trainer(**arguments)

    def after_instantiate_classes(self) -> None:
        """Hand the recipe to the export, and refuse what would fail after the training or overwrite another run."""
        recipe = self.config.model.as_dict()["init_args"]
        trainer: Any = self.trainer
        for callback in trainer.callbacks:
            if isinstance(callback, ExportModelFolder):
                callback.recipe = recipe
                callback.trust_code |= self.config.trust_code
                callback.overwrite |= self.config.ckpt_path is not None  # its own
        if self.command == "fit":
            try_optimizers(recipe)
            check_clips(self.model, self.config.data)
            if not trainer.fast_dev_run:
                check_run(trainer, self.model, self.config.ckpt_path)
            check_samples(trainer, self.datamodule)
            if len(self.said.recipes) > 1 and trainer.is_global_zero:
                self._tell_changes()
        self.started = Started()
        data = self.config.as_dict().get("data")
        trainer.callbacks += [self.started, SameRecipe(data, self.config.trainer.precision)]

    def _tell_changes(self) -> None:
        """Print what files and arguments change against the first file."""
        base, *others = self.said.recipes
        self.parser.exit_on_error = False
        try:
            alone = self.parser.parse_args(["-c", base])
        except ArgumentError:
            print(f"{base} is no recipe without {' and '.join(others)}: what they change is not shown", flush=True)
            return
        finally:
            self.parser.exit_on_error = True
        lines = [
            line
            for key in ("seed_everything", "trainer", "model", "data")
            for line in changes(alone.as_dict().get(key), self.config.as_dict().get(key), key)
        ]
        print(f"{base} is changed by {' and '.join(others)}:", *lines, sep="\n  ", flush=True)

    def start(self) -> None:
        """Run the trainer."""
        ckpt_path = self.config.ckpt_path
        run = self.trainer.fit if self.command == "fit" else self.trainer.validate
        run(self.model, datamodule=self.datamodule, ckpt_path=ckpt_path, weights_only=True)


def run_recipe(command: str, arguments: Sequence[str]) -> int:
    """Run ``fit`` or ``validate``.

    Args:
        command: Which one.
        arguments: As on the command line, after the name of the command.

    Returns:
        0 when all went well, 1 for an error before any work and for shards that cannot be read, 130 when interrupted,
        143 after SIGTERM.

    Raises:
        SystemExit: Status 2 for a recipe or an argument that makes no sense, 0 after ``--help`` and ``--print_config``.
    """
    cli = None
    try:
        cli = RecipeCLI(command, arguments)
        cli.start()
    except REFUSALS as error:
        if cli is not None and cli.started.yes and not isinstance(error, ShardError):
            raise
        print(f"flashvsr {command}: error: {shorten(str(error))}", file=sys.stderr)
        return 1
    except SystemExit:
        if cli is None or not cli.trainer.interrupted:
            raise
        trainer: Any = cli.trainer
        signals = [callback.received for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)]
        return 128 + next(filter(None, signals), signal.SIGINT)
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the command with the arguments after its name, and return the exit status."""
    return run_recipe("fit", arguments)
