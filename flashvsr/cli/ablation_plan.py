"""The plan of an ablation study: a base recipe, variants on top of it, and seeds; see ``flashvsr ablate``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KEYS = ("base", "arguments", "variants", "seeds", "evaluate", "size")


@dataclass(frozen=True)
class AblationPlan:
    """What is trained and how it is judged.

    Args:
        base: Recipes of every run, in the order of ``-c``.
        variants: Recipes on top of the base, by the name of the variant; an empty tuple is the base itself.
        arguments: Further arguments of ``flashvsr fit``, for every run.
        seeds: Every variant is trained once for each.
        evaluate: Arguments of ``flashvsr evaluate`` but ``--model`` and ``--out``.
        size: Height and width in pixels at which density and speed are listed beside those of the training crop.

    Raises:
        ValueError: If nothing is compared, or a name or seed is there twice.
    """

    base: tuple[str, ...]
    variants: Mapping[str, tuple[str, ...]]
    evaluate: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    size: tuple[int, int] = (768, 1408)

    def __post_init__(self) -> None:
        """Refuse a plan that compares nothing."""
        if not self.base or len(self.variants) < 2:
            raise ValueError("an ablation plan has a base recipe and at least 2 variants, one of which may be {}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds are different numbers, at least one; got {list(self.seeds)}")

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Variant and seed of every run, seed by seed, so that all variants have one result early."""
        return [(name, seed) for seed in self.seeds for name in self.variants]


def read_plan(path: Path) -> AblationPlan:
    """Read a plan from YAML.

    Args:
        path: A mapping with the arguments of :class:`AblationPlan`; a single recipe or seed need not be a list.

    Returns:
        The plan.

    Raises:
        ValueError: If a key is unknown, missing, or not of its kind.
    """
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(said, dict) or set(said) - set(KEYS) or not {"base", "variants", "evaluate"} <= set(said):
        wrong = ", ".join(map(str, said)) if isinstance(said, dict) else type(said).__name__
        raise ValueError(
            f"{path}: a plan has base, variants, evaluate, and may have {KEYS[1]}, seeds, size; got {wrong}"
        )
    if not isinstance(said["variants"], dict):
        raise ValueError(f"{path}: variants is a mapping of names to recipes, got {said['variants']!r}")
    size = _listed(said.get("size", (768, 1408)))
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 and side % 128 == 0 for side in size):
        raise ValueError(f"{path}: size is height and width in multiples of 128 pixels, got {said.get('size')!r}")
    return AblationPlan(
        base=_listed(said["base"]),
        variants={str(name): _listed(recipes or ()) for name, recipes in said["variants"].items()},
        evaluate=tuple(map(str, _listed(said["evaluate"]))),
        arguments=tuple(map(str, _listed(said.get("arguments") or ()))),
        seeds=_listed(said.get("seeds", 0)),
        size=(size[0], size[1]),
    )


def _listed(said: Any) -> tuple[Any, ...]:
    return tuple(said) if isinstance(said, list | tuple) else (said,)


@dataclass
class AblationRun:
    """One variant with one seed: its commands, and what they leave.

    Args:
        variant: Its name.
        seed: Of training.
        fit: Arguments of ``flashvsr fit``.
        out: Folder of its results.
        settings: The whole recipe, as ``flashvsr fit --print_config`` prints it.
    """

    variant: str
    seed: int
    fit: Sequence[str]
    out: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The model folder that training leaves.

        Raises:
            ValueError: If the recipe exports none, or several.
        """
        folders = [Path(part["folder"]) for part in self._callbacks("ExportModelFolder")]
        if len(folders) != 1:
            raise ValueError(
                f"the recipe of {self.variant} has {len(folders)} ExportModelFolder, an ablation needs one"
            )
        return folders[0]

    @property
    def checkpoint(self) -> Path | None:
        """Where a stopped run left off; None for a recipe without checkpoints, or before the first."""
        for part in (*self._callbacks("ModelCheckpoint"), *self._callbacks("LastCheckpoint")):
            path = Path(str(part.get("dirpath"))) / f"{part.get('filename') or 'last'}.ckpt"
            if path.is_file():
                return path
        return None

    def train(self, environment: Mapping[str, str]) -> None:
        """Train, or go on with training that was stopped; do nothing when it has ended.

        A model folder alone says nothing: Ctrl-C leaves one, too.

        Raises:
            RuntimeError: If training fails; its output is in ``fit.log`` of the folder of results.
        """
        ended = self.out / "trained"
        if not (ended.is_file() and (self.folder / "model.yaml").is_file()):
            going_on = ["--ckpt_path", "last"] if self.checkpoint else []
            self.out.mkdir(parents=True, exist_ok=True)
            _logged(["fit", *self.fit, *going_on], self.out / "fit.log", environment)
            ended.touch()

    def judge(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        """Evaluate the model folder, once.

        Raises:
            RuntimeError: If the evaluation fails; its output is in ``evaluate.log``.
        """
        results = self.out / "results"
        if not (results / "results.json").is_file():
            command = ["evaluate", *arguments, "--model", str(self.folder), "--out", str(results)]
            _logged(command, self.out / "evaluate.log", environment)

    @property
    def figures(self) -> dict[str, float]:
        """Means over clips, by metric, of the trained model.

        Raises:
            ValueError: If the results hold more than one model.
        """
        saved = json.loads((self.out / "results" / "results.json").read_text(encoding="utf-8"))
        methods = [name for name in saved["means"] if name not in ("bicubic", "lanczos")]
        if len(methods) != 1:
            raise ValueError(f"{self.out / 'results'} holds {len(methods)} models besides the baselines, expected 1")
        return saved["means"][methods[0]]

    def _callbacks(self, name: str) -> list[Mapping[str, Any]]:
        callbacks = self.settings.get("trainer", {}).get("callbacks") or []
        return [part.get("init_args", {}) for part in callbacks if part["class_path"].rsplit(".", 1)[-1] == name]


def make_runs(plan: AblationPlan, name: str, out: Path) -> list[AblationRun]:
    """Read the recipes of all runs, before anything is trained.

    Args:
        plan: The plan.
        name: Of the study; runs are logged and exported as ``name/VARIANT_seedN`` beside the results of the base.
        out: Folder of all results.

    Returns:
        One for each variant and seed.

    Raises:
        ValueError: If a recipe does not parse, or two runs would write one folder.
    """
    runs = []
    for variant, seed in plan.runs:
        recipes = [argument for recipe in (*plan.base, *plan.variants[variant]) for argument in ("-c", recipe)]
        label = f"{variant}_seed{seed}"
        own = [f"--seed_everything={seed}", f"--trainer.logger.init_args.name={name}/{label}"]
        fit = [*recipes, *plan.arguments, *own]
        run = AblationRun(variant, seed, fit, out / label, _settings(fit, variant))
        runs.append(run)
    folders = [run.folder for run in runs]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"several runs would write {folders[0]}: name the exported folder after ${{....logger.init_args.name}}"
        )
    return runs


def _settings(fit: Sequence[str], variant: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "flashvsr", "fit", *fit, "--print_config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"the recipe of {variant} is refused: {done.stderr.strip().splitlines()[-1]}")
    return yaml.safe_load(done.stdout)


def _logged(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    with log.open("a", encoding="utf-8") as file:
        command = [sys.executable, "-m", "flashvsr", *arguments]
        done = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, check=False, env={**os.environ, **environment}
        )
    if done.returncode:
        last = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()][-1:]
        raise RuntimeError(f"flashvsr {arguments[0]} ended with {done.returncode}: {''.join(last)} (all of it: {log})")
