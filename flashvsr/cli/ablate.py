"""Train variants of a recipe, evaluate all, and make one table of them.

PLAN is a YAML file: ``base`` (a recipe), ``variants`` (recipes on top of it by name; {} is the base itself), ``seeds``,
``arguments`` of ``flashvsr fit`` for every run, ``evaluate`` (arguments of ``flashvsr evaluate``) and ``size`` (height
and width at which density and speed are told). Finished runs are kept: the same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashvsr.cli.ablation_plan import AblationPlan, AblationRun

PLAN = "plan.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr ablate`` takes."""
    parser.add_argument("plan", metavar="PLAN", help="a YAML file, or the name of a packaged plan")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="tables, logs and figures of all runs"
    )
    parser.add_argument(
        "--gpus",
        nargs="+",
        default=[],
        metavar="N",
        help="GPUs to train on, one run each at a time (default: the first)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and train nothing")


def run(args: argparse.Namespace) -> int:
    """Run the study, print its table, and return the exit status."""
    from flashvsr.cli.ablation_plan import make_runs, read_plan
    from flashvsr.cli.ablation_table import ablation_table
    from flashvsr.cli.recipes import find_recipe

    try:
        path = Path(find_recipe(args.plan))
        plan = read_plan(path)
        runs = make_runs(plan, path.stem, args.out)
        if args.dry_run:
            print(*(f"flashvsr fit {' '.join(run.fit)}" for run in runs), sep="\n")
            return 0
        _claim(args.out, path)
        failed = _run_all(plan, runs, args.gpus)
        finished = [run for run in runs if (run.out / "results" / "results.json").is_file()]
        if finished:
            table = ablation_table(plan, finished)
            (args.out / "table.md").write_text(table, encoding="utf-8")
            print(table, end="")
    except (ValueError, OSError) as error:
        print(f"flashvsr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("flashvsr: interrupted; the same command goes on", file=sys.stderr)
        return 130
    for label, reason in failed.items():
        print(f"flashvsr: {label}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _claim(out: Path, path: Path) -> None:
    """Make the folder of results, or find the same plan in it."""
    said = path.read_text(encoding="utf-8")
    if (out / PLAN).is_file():
        if json.loads((out / PLAN).read_text(encoding="utf-8")) != said:
            raise FileExistsError(f"{out} holds the results of another plan: choose another --out")
        return
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} exists and holds no ablation: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / PLAN).write_text(json.dumps(said), encoding="utf-8")


def _run_all(plan: AblationPlan, runs: Sequence[AblationRun], gpus: Sequence[str]) -> Mapping[str, str]:
    """Train and evaluate all runs, and return what failed; others go on."""
    free: SimpleQueue[str | None] = SimpleQueue()
    for name in gpus or (None,):
        free.put(name)

    def one(run: AblationRun) -> str | None:
        gpu = free.get()
        environment = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        try:
            print(f"{run.out.name} begins{'' if gpu is None else f' on GPU {gpu}'}", file=sys.stderr)
            run.train(environment)
            run.judge(plan.evaluate, environment)
        except (RuntimeError, OSError) as error:
            return str(error)
        finally:
            free.put(gpu)
        return None

    with ThreadPoolExecutor(max(1, len(gpus))) as pool:
        ended = list(pool.map(one, runs))
    return {run.out.name: error for run, error in zip(runs, ended, strict=True) if error is not None}
