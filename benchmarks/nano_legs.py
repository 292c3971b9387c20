r"""Train nano's diffusion part in legs, on a machine that is there for minutes at a time.

Legs run one after another, each for its share of time; a call ends after ``--minutes``, in the middle of a leg too.
What is needed to go on lies in ``--state`` in files of at most 16 MiB: the last checkpoint in parts, the model folder
and the curves of each leg. The same command, on this machine or on another that has the folder, goes on exactly there.

    python benchmarks/nano_legs.py --legs stage1 stage2 stage3_control stage3 --minutes 9 --state state \
        --fit data.train='shards/train/*/*.tar' data.val='shards/val/*.tar'

``--fit`` changes keys of every recipe. ``--share stage1=12`` changes the minutes of a leg. The
sweep of the KL weight (``kl_1e-4``, ``kl_3e-4``, ``kl_1e-3``, ``kl_3e-3``) is of 1,000 steps each.

Each leg keeps 2 to 5 GB of batches on the GPU and makes them anew when it goes on. Footage in memory lies in a file in
TMPDIR, three bytes per pixel of all that is decoded. Networks and their optimizers take less than a gigabyte.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PART = 16 * 2**20
"""Bytes of a part of a checkpoint."""
STOP_SECONDS = 90
"""Of the minutes that a call has, left to write the checkpoint and the model folder."""
RUNS = Path("runs/nano")


@dataclass(frozen=True)
class Leg:
    """A training.

    Args:
        recipes: As after ``-c``.
        minutes: That it trains, over all calls; its learning rate falls until then.
        schedule: Key of the schedule of the learning rate.
        more: Further arguments of ``flashvsr fit``.
    """

    recipes: tuple[str, ...]
    minutes: float
    schedule: str = "model.scheduler"
    more: tuple[str, ...] = ()


ONE_STEP = "model.optimization.generator_scheduler"
LEGS = {
    "autoencoder": Leg(("nano/autoencoder",), 10),
    "stage1": Leg(("nano/stage1_joint",), 20),
    "stage2": Leg(("nano/stage2_sparse_causal",), 8),
    "stage3_control": Leg(("nano/stage3_one_step", "ablations/stage3_control"), 8, ONE_STEP),
    "stage3": Leg(("nano/stage3_one_step",), 14, ONE_STEP),
} | {
    f"kl_{weight}": Leg(("nano/autoencoder",), 6, more=(f"--model.kl_weight={weight}", "--trainer.max_steps=1000"))
    for weight in ("1e-4", "3e-4", "1e-3", "3e-3")
}


def fit_command(name: str, leg: Leg, more: Sequence[str]) -> list[str]:
    """The command that begins a leg, or goes on with it where there is a checkpoint."""
    command = [sys.executable, "-m", "flashvsr", "fit"]
    for recipe in leg.recipes:
        command += ["-c", recipe]
    hours, minutes, seconds = int(leg.minutes // 60), int(leg.minutes % 60), int(leg.minutes * 60 % 60)
    command += [
        f"--trainer.logger.init_args.name={name}",
        f"--trainer.max_time=00:{hours:02}:{minutes:02}:{seconds:02}",
    ]
    command += [f"--{leg.schedule}.init_args.seconds={60 * leg.minutes:g}", *leg.more, *more]
    return command + (["--ckpt_path=last"] if checkpoint_of(name).is_file() else [])


def checkpoint_of(name: str) -> Path:
    """Where ``LastCheckpoint`` of the recipes writes."""
    return RUNS / "checkpoints" / name / "last.ckpt"


def run_for(command: Sequence[str], seconds: float) -> int:
    """Run a command, and ask it to stop (SIGTERM) when the time is over.

    Returns:
        Its status, 0 when it came to its own end.
    """
    process = subprocess.Popen(list(command))
    try:
        return process.wait(timeout=max(seconds, 1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        return process.wait()


def keep(name: str, state: Path) -> None:
    """Copy a leg into the state: its model folder, curves, and checkpoint in parts. What was there goes when all is."""
    new, old = state / f"{name}.new", state / name
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for source, target in ((RUNS / name, new / "model"), (RUNS / "logs" / name, new / "logs")):
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("pictures"))
    if checkpoint_of(name).is_file():
        with checkpoint_of(name).open("rb") as file:
            for number, part in enumerate(iter(lambda: file.read(PART), b"")):
                (new / f"last.ckpt.{number:03}").write_bytes(part)
    if old.is_dir():
        shutil.rmtree(old)
    new.rename(old)


def bring_back(name: str, state: Path) -> None:
    """Put what :func:`keep` kept where the recipes look for it; what is there already stays."""
    kept = state / name if (state / name).is_dir() else state / f"{name}.new"
    for source, target in ((kept / "model", RUNS / name), (kept / "logs", RUNS / "logs" / name)):
        if source.is_dir() and not target.exists():
            shutil.copytree(source, target)
    parts, checkpoint = sorted(kept.glob("last.ckpt.*")), checkpoint_of(name)
    if parts and not checkpoint.exists():
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        joined = checkpoint.with_suffix(".joined")
        with joined.open("wb") as file:
            for part in parts:
                file.write(part.read_bytes())
        joined.replace(checkpoint)


def main() -> int:
    """Run the legs that are not done, in order, until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--legs",
        nargs="+",
        choices=list(LEGS),
        required=True,
        metavar="LEG",
        help=f"in this order, of {', '.join(LEGS)}",
    )
    add("--minutes", type=float, required=True, help="after which this call has ended")
    add("--share", nargs="+", default=[], metavar="LEG=MINUTES", help="minutes of a leg, other than its own")
    add("--state", type=Path, required=True, metavar="FOLDER", help="what is needed to go on")
    add("--fit", nargs="+", default=[], metavar="KEY=VALUE", help="keys of every recipe, as data.train=shards/*.tar")
    options = parser.parse_args()
    shares = dict(said.split("=") for said in options.share)
    if unknown := set(shares) - set(LEGS):
        parser.error(f"--share: there is no leg {', '.join(unknown)}")
    end = time.monotonic() + 60 * options.minutes - STOP_SECONDS
    for name in LEGS:
        bring_back(name, options.state)
    for name in options.legs:
        if (options.state / name / "done").exists():
            continue
        left = end - time.monotonic()
        if left < 30:
            print(f"{name} has not begun: the same command goes on with it")
            return 0
        leg = LEGS[name]
        leg = Leg(leg.recipes, float(shares.get(name, leg.minutes)), leg.schedule, leg.more)
        status = run_for(fit_command(name, leg, [f"--{said}" for said in options.fit]), left)
        if status not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):  # the last: it had not begun to train
            print(f"{name} ended with status {status}; what it wrote is in {RUNS}", file=sys.stderr)
            return status
        keep(name, options.state)
        if status:
            print(f"{name} is not done: the same command goes on with it")
            return 0
        (options.state / name / "done").touch()
        print(f"{name} is done")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
