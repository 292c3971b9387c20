"""What is known of each source, kept beside the output: a killed run goes on from there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from flashvsr.curate import CurateError
from flashvsr.curate.records import REPORT, THUMBNAILS, write_text
from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules

_FOLDER = "journal"


class CurateJournal:
    """The journal of one output folder; only one run at a time has it.

    ``journal/run.json`` says with which recipe and seed; ``journal/sources/<sha256>.json`` what was measured of a file,
    named by its content and written whole; ``journal/shards/`` what lies in finished shards (`write.write_shard`).

    Args:
        out: The output folder.
        rules: The recipe.
        seed: Of the split.
        resume: Go on with a run that was stopped; without one, begin.

    Raises:
        CurateError: If ``out`` is not empty and ``resume`` is not asked for or not possible, if another run works
            there, or if the run to go on with had another recipe or seed.
    """

    def __init__(self, out: Path, rules: CurateRules, seed: int, *, resume: bool) -> None:
        self.out = out
        self.shards, self._sources = out / _FOLDER / "shards", out / _FOLDER / "sources"
        self._thumbnails = out / REPORT / THUMBNAILS
        self._check(rules, seed, resume)
        for folder in (self.shards, self._sources, self._thumbnails):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        for left in out.glob("*/.shard-*.partial"):  # `write.write_shard`
            left.unlink(missing_ok=True)
        write_text(out / _FOLDER / "run.json", json.dumps(_identity(rules, seed), sort_keys=True, indent=1) + "\n")

    def known(self) -> frozenset[str]:
        """Hashes of the files that were measured."""
        return frozenset(path.stem for path in self._sources.glob("*.json"))

    def save(self, rows: Sequence[Row]) -> None:
        """Keep all rows of one source; their thumbnails first, so that what is known has them."""
        for row in rows:
            if row.thumbnail is not None:
                (self._thumbnails / thumbnail_name(row)).write_bytes(row.thumbnail)
        write_text(self._sources / f"{rows[0].sha256}.json", json.dumps([row.as_json() for row in rows]))

    def load(self, row: Row) -> list[Row]:
        """The rows of a source that is known."""
        entries = json.loads((self._sources / f"{row.sha256}.json").read_text(encoding="utf-8"))
        return [Row.from_json(entry, row.path, row.name) for entry in entries]

    def thumbnail_of(self, row: Row) -> str | None:
        """Where the thumbnail of a row lies, below the report's folder."""
        return f"{THUMBNAILS}/{thumbnail_name(row)}" if (self._thumbnails / thumbnail_name(row)).exists() else None

    def drop_others(self, shards: set[str]) -> None:
        """Remove shards that an earlier run wrote from other sources and that this one does not have."""
        for note in self.shards.glob("*.json"):
            name = json.loads(note.read_text(encoding="utf-8"))["name"]
            if name not in shards:
                (self.out / name).unlink(missing_ok=True)
                note.unlink()

    def close(self) -> None:
        """Let others have it."""
        self._lock.close()

    def _check(self, rules: CurateRules, seed: int, resume: bool) -> None:
        out = self.out
        if out.exists() and not out.is_dir():
            raise CurateError(f"{out} is a file\nname a new folder")
        if not out.exists() or not any(out.iterdir()):
            return
        if not resume:
            raise CurateError(f"{out} is not empty\nuse --resume to go on with the run in it, or name a new folder")
        said = out / _FOLDER / "run.json"
        if not said.is_file():
            if (out / _FOLDER).is_dir():
                return  # stopped before the first entry
            raise CurateError(f"{out} holds no run to go on with\nname a new folder")
        before, now = json.loads(said.read_text(encoding="utf-8")), json.loads(json.dumps(_identity(rules, seed)))
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed:
            raise CurateError(f"the run in {out} had another {', '.join(changed)}\nset it back, or name a new folder")

    def _take_lock(self) -> IO[Any]:
        import fcntl  # not on Windows, where `curate` refuses to run

        lock = (self.out / _FOLDER / "lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise CurateError(f"another run works in {self.out}\nwait for it, or name a new folder") from error
        return lock


def thumbnail_name(row: Row) -> str:
    """Named by the source's bytes and the segment's number."""
    return f"{row.sha256[:16]}-{row.part:05d}.jpg"


def _identity(rules: CurateRules, seed: int) -> dict[str, Any]:
    return rules.as_json() | {"seed": seed}
