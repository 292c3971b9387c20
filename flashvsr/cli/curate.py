"""Turn raw videos and photographs into training shards.

Sources are probed, cut at scenes, scored, freed of near-duplicates and written as shards under DIR/train and DIR/val,
with DIR/manifest.jsonl and a report, DIR/report. What is kept is decided by a recipe; the default keeps
what has a short side of at least 480 pixels and lasts a second, and needs no weights.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``flashvsr curate``."""
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="folder (searched recursively), list (.txt of paths) or file")
    add("--out", required=True, metavar="DIR", help="folder to make")
    add("-c", "--config", metavar="RECIPE", help="packaged recipe, such as vsr120k, or a YAML file (default: small)")
    add("--seed", type=int, default=0, help="of the split into training and validation (default: 0)")
    add("--workers", type=int, metavar="N", help="processes; 0: in this one, without Ray (default: one per core)")
    add("--cluster", metavar="ADDRESS", help="run on this Ray cluster, or 'auto'; it must see SOURCE and DIR")
    add("--licences", metavar="TSV", help="table of source name, tab, licence: goes into manifest and samples")
    add("--resume", action="store_true", help="go on with the run in DIR where it was stopped")


def run(args: argparse.Namespace) -> int:
    """Curate; the exit status is 1 for an error, among them that nothing was kept."""
    from flashvsr.curate import CurateError

    try:
        return _curate(args)
    except (CurateError, OSError) as error:
        print(f"flashvsr: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"flashvsr: stopped; --resume goes on in {args.out}", file=sys.stderr)
        return 130


def _curate(args: argparse.Namespace) -> int:
    try:
        from flashvsr.curate.run import curate
    except ImportError as error:
        print(f"flashvsr: {error}\npip install 'flashvsr[curate]'", file=sys.stderr)
        return 1
    from flashvsr.cli.recipes import find_recipe
    from flashvsr.curate.records import REPORT, RUN
    from flashvsr.curate.report.page import write_report
    from flashvsr.curate.results import show_funnel
    from flashvsr.curate.rules import read_rules
    from flashvsr.curate.sources import read_licences

    workers = args.workers if args.workers is not None else _cores()
    try:
        made = curate(
            args.sources,
            args.out,
            read_rules(find_recipe(args.config, "curate")) if args.config else None,
            seed=args.seed,
            workers=workers,
            cluster=args.cluster,
            licences=read_licences(args.licences) if args.licences else None,
            resume=args.resume,
            on_progress=lambda line: print(line, flush=True),
        )
    finally:
        if (Path(args.out) / REPORT / RUN).exists():  # also when nothing was kept: it shows why
            print(f"report: {write_report(Path(args.out))}")
    print(show_funnel(made.funnel))
    print("seconds of work: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in made.times.items()))
    size = sum((made.out / shard).stat().st_size for shard in made.shards) / 2**20
    print(f"{len(made.shards)} shards, {size:.1f} MiB in {made.out}")
    return 0


def _cores() -> int:
    """Cores that this process may use; all of them where the system has no such call."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
