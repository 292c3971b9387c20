"""A curation run: measure every source, decide once, write the shards."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from flashvsr.curate import CurateError
from flashvsr.curate.engine import PipelineStage, RaySession, run_in_process, run_ray
from flashvsr.curate.isolation import WorkerCrashed, call_isolated
from flashvsr.curate.journal import CurateJournal
from flashvsr.curate.plan import ShardClip, funnel, make_clips, make_shard_plans
from flashvsr.curate.results import (
    raw_totals,
    reject_unwritten,
    show_funnel,
    show_reasons,
    write_manifest,
    write_results,
)
from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules
from flashvsr.curate.sources import find_sources
from flashvsr.curate.stages.duplicates import mark_duplicates
from flashvsr.curate.stages.measure import measure
from flashvsr.curate.stages.probe import probe
from flashvsr.curate.stages.scenes import cut
from flashvsr.curate.stages.scorers import Scorers
from flashvsr.curate.stages.write import write_shard
from flashvsr.data.shard_index import INDEX, write_index

MANIFEST = "manifest.jsonl"
PLATFORM = sys.platform


@dataclass(frozen=True)
class CurateResult:
    """What a run made.

    Attributes:
        out: The folder.
        shards: Their names below it.
        funnel: As in ``run.json``.
        times: Stage to seconds of work, summed over workers.
    """

    out: Path
    shards: list[str]
    funnel: list[dict[str, Any]]
    times: dict[str, float] = field(default_factory=dict)


def curate(
    sources: Sequence[str | Path],
    out: str | Path,
    rules: CurateRules | None = None,
    *,
    seed: int = 0,
    workers: int = 2,
    cluster: str | None = None,
    licences: dict[str, str] | None = None,
    resume: bool = False,
    on_progress: Callable[[str], None] = lambda line: None,
) -> CurateResult:
    """From raw videos and photographs to shards, a manifest and records.

    ``out/train/*.tar`` and ``out/val/*.tar``, with an index in each folder, are for `lit.ShardDataModule`;
    ``out/manifest.jsonl`` appears when all of them are there. Equal sources, recipe, seed and versions of the libraries
    give equal bytes, however many workers there are and however often the run was stopped.

    Args:
        sources: Folders, lists and files, see `sources.find_sources`.
        out: Folder to make.
        rules: The recipe; None: the default, ``small``.
        seed: Of the split into training and validation.
        workers: Processes of a Ray that is started here; 0 runs in this process, without Ray.
        cluster: Address of a Ray cluster to run on instead; its nodes must see ``sources`` and ``out``.
        licences: Of sources, by name.
        resume: Go on with what is in ``out``.
        on_progress: Called with one line at a time.

    Returns:
        What was made.

    Raises:
        CurateError: If ``out`` cannot be used, ``workers`` is negative, scorers are missing, the system is Windows, or
            nothing is kept; the message then shows the funnel.
    """
    if PLATFORM == "win32":
        raise CurateError("curation runs on Linux and macOS only: its workers inherit open pipes\nuse WSL on Windows")
    if workers < 0:
        raise CurateError(f"workers={workers}\nexpected a number of processes, or 0 for this one")
    rules, out = rules or CurateRules(), Path(out)
    found, lines = find_sources(sources)
    for line in lines:
        on_progress(line)
    if rules.scorers or rules.flow == "raft":
        Scorers(rules)  # refuses here, and not in the middle of the run
    in_process = workers == 0 and cluster is None
    engine: AbstractContextManager[None] = nullcontext() if in_process else RaySession(workers, cluster)
    run: Callable[..., Iterator[Any]] = run_in_process if in_process else run_ray
    journal = CurateJournal(out, rules, seed, resume=resume)
    times: Counter[str] = Counter()
    try:
        with engine:
            rows = _measured(run(found, analysis(rules, journal.known())), found, journal, times, on_progress)
            rows, linked = mark_duplicates(_same_bytes(rows), rules)
            clips = make_clips(rows, linked, licences or {}, seed, rules)
            entries = _write(run, clips, rules, journal, times)
        rows = reject_unwritten(rows, clips, entries)
        steps = funnel(rows, len(found), *raw_totals(rows))
        write_results(out, rows, clips, entries, steps, rules, journal)
        if not any(entry["samples"] for entry in entries):
            why = f"{show_funnel(steps)}\nthe commonest reasons:\n{show_reasons(rows)}"
            raise CurateError(f"nothing is kept of {len(found)} sources\n{why}")
        _write_indexes([out / entry["name"] for entry in entries if entry["samples"]])
        write_manifest(out / MANIFEST, entries)
    finally:
        journal.close()
    return CurateResult(out, [entry["name"] for entry in entries if entry["samples"]], steps, dict(times))


@dataclass(frozen=True)
class Isolated:
    """A stage whose function runs in a child process; a crash or hang there rejects the row.

    Attributes:
        name: Of the stage.
        function: Of a row and ``arguments``; gives a row or several.
        arguments: Besides the row.
        timeout: In seconds.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    timeout: float

    def __call__(self, row: Row) -> list[Row]:
        """The rows that come of one; the first has the time that it took."""
        if row.stage is not None or row.known:
            return [row]
        start = perf_counter()
        try:
            made = call_isolated(self.function, row, *self.arguments, timeout=self.timeout)
        except WorkerCrashed as error:
            made = row.rejected(self.name, str(error))
        rows = [made] if isinstance(made, Row) else list(made)
        spent = perf_counter() - start - sum(rows[0].timing.values()) + sum(row.timing.values())
        return [rows[0].timed(self.name, max(spent, 0.0)), *(replace(row, timing={}) for row in rows[1:])]


def analysis(rules: CurateRules, known: frozenset[str]) -> list[PipelineStage]:
    """The stages from a file to measured segments.

    Args:
        rules: The recipe.
        known: Hashes of the bytes of files that were measured before.
    """
    stages = [
        PipelineStage("probe", Isolated("probe", probe, (rules, known), rules.timeout)),
        PipelineStage("scenes", Isolated("scenes", cut, (rules,), rules.timeout), spreads=True),
        PipelineStage("quality", Isolated("quality", measure, (rules,), rules.timeout)),
    ]
    if rules.scorers or rules.flow == "raft":
        stages.append(PipelineStage("scorers", make=partial(Scorers, rules)))
    return stages


def _measured(
    made: Iterable[Row],
    found: Sequence[Row],
    journal: CurateJournal,
    times: Counter[str],
    on_progress: Callable[[str], None],
) -> list[Row]:
    """All rows in order; each source is journaled when the last of its rows has come."""
    parts: dict[str, list[Row]] = {}
    for row in made:
        times.update(row.timing)
        group = parts.setdefault(row.name, [])
        group.append(row)
        if len(group) < row.parts:
            continue
        if row.known:
            parts[row.name] = journal.load(row)
        else:
            group.sort(key=lambda row: row.part)
            if row.sha256:
                journal.save(group)
            parts[row.name] = [replace(row, thumbnail=None) for row in group]
        on_progress(_line(parts[row.name], len(parts), len(found)))
    return [row for source in found for row in parts[source.name]]


def _line(rows: list[Row], number: int, total: int) -> str:
    good = sum(row.stage is None for row in rows)
    reasons = Counter(f"{row.stage}: {row.reason}" for row in rows if row.stage is not None)
    why = f" ({reasons.most_common(1)[0][0]}{', ...' if len(reasons) > 1 else ''})" if reasons else ""
    return f"[{number}/{total}] {rows[0].name}: {good} of {len(rows)} kept so far{why}"


def _same_bytes(rows: Sequence[Row]) -> list[Row]:
    """One row, rejected, for each source with the bytes of one of a smaller name."""
    first: dict[str, str] = {}
    result: list[Row] = []
    for row in rows:
        original = first.setdefault(row.sha256 or row.name, row.name)
        if original == row.name:
            result.append(row)
        elif row.part == 0:
            last = max(other.end for other in rows if other.name == row.name)
            whole = replace(row, end=last, parts=1, scores={}, hashes=())
            result.append(whole.rejected("duplicates", f"the same bytes as {original}"))
    return result


def _write(
    run: Callable[..., Iterator[Any]],
    clips: list[ShardClip],
    rules: CurateRules,
    journal: CurateJournal,
    times: Counter[str],
) -> list[dict[str, Any]]:
    """Write all shards; their entries in order of name."""
    plans = make_shard_plans(clips, rules)
    call = partial(_write_one, rules=rules, out=journal.out.absolute(), journal=journal.shards.absolute())
    entries = sorted(run(plans, [PipelineStage("write", call)]), key=lambda entry: entry["name"])
    for entry in entries:
        times["write"] += entry.pop("took")
    journal.drop_others({entry["name"] for entry in entries})
    return entries


def _write_indexes(shards: list[Path]) -> None:
    """Write what shards hold into a file of each folder, for those who read them from a URL."""
    for folder in {shard.parent for shard in shards}:
        write_index([shard for shard in shards if shard.parent == folder], folder / INDEX, overwrite=True)


def _write_one(plan: Any, rules: CurateRules, out: Path, journal: Path) -> list[dict[str, Any]]:
    return [write_shard(plan, rules, out, journal)]
