"""One video in several segments at a time: on the devices of a machine, or on machines that share a folder.

Each segment is a run with a partial folder of its own, inside that of the whole. So each can be killed and goes on, and
at the end all that they have closed is joined as it would be for one run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from flashvsr.upscale.errors import InUseError
from flashvsr.upscale.job import WARNING, Job
from flashvsr.upscale.journal import Journal
from flashvsr.upscale.parts import Part, Seam, find_seams, has_plan, part_folder, parts_between, read_plan, write_plan
from flashvsr.upscale.processes import devices_for, run_in_processes, run_in_turn
from flashvsr.upscale.progress import Silent
from flashvsr.upscale.record import Record, has_journal
from flashvsr.video import is_picture

PATIENCE = 30.0  # seconds that a machine waits for another one that writes down where segments begin


class SegmentError(RuntimeError):
    """Segments of a video that failed; the message says which, and why."""


@dataclass(frozen=True)
class Segments:
    """What ``--segments`` asks for.

    Attributes:
        count: How many segments the video is split into.
        only: The one to upscale, from 1; None: all of them, to be joined.
    """

    count: int
    only: int | None = None

    @classmethod
    def parse(cls, asked: int | str) -> Self:
        """From ``4``, ``"4"`` or ``"2/4"``.

        Raises:
            ValueError: If it is something else.
        """
        only, slash, count = str(asked).rpartition("/")
        numbers = [int(text) if text.isdecimal() else 0 for text in ((only, count) if slash else ("1", count))]
        if numbers[1] < 2 or not 1 <= numbers[0] <= numbers[1]:
            raise ValueError(f"segments are a number from 2 on, such as 4, or one of so many, such as 2/4; got {asked}")
        return cls(numbers[1], numbers[0] if slash else None)


@dataclass
class SegmentedRun:
    """A run in segments.

    Attributes:
        job: The run as it would be in one; what comes of it is filled in there.
        segments: How it is split.
    """

    job: Job
    segments: Segments

    def run(self, *, resume: bool, overwrite: bool) -> None:
        """Do it, or the one segment that is asked for.

        Raises:
            SegmentError: If segments fail. The others are finished first, and kept.
        """
        self._refuse(overwrite)
        if self.segments.only is not None:
            self._run_one(self.segments.only)
            return
        folder, settings = self.job.target.partial, self._settings()
        goes_on = self.job.check(resume=resume, overwrite=overwrite)
        seams = self._planned() if goes_on else None
        with self.job.open_reader() as reader:
            total = reader.info.frames
            seams = self._found() if seams is None else seams
            with Journal.resume(folder, settings) if goes_on else Journal.create(folder, settings) as journal:
                if journal.record.stage == "running":
                    self.job.try_output(reader, journal)
                    write_plan(folder, seams)
                    parts = parts_between(seams)
                    self._run_all(parts, total)
                    journal.gather([part_folder(folder, part) for part in parts])
                self.job.frames = journal.record.boundary.frames_out
                self.job.finish(journal)

    def _refuse(self, overwrite: bool) -> None:
        """What cannot be done in segments, before anything is opened."""
        job, source = self.job, Path(self.job.source)
        if job.source != "-" and job.source != "example:" and not source.exists():
            raise FileNotFoundError(f"{job.source} does not exist: check the name")
        if not source.is_file() or is_picture(source):
            raise ValueError(f"{job.source} is not a video file, which --segments splits: leave it out")
        if job.target.kind != "file":
            raise ValueError(f"{job.target.name} is not a video file, which --segments writes: name one")
        if job.clip.cuts == "off":
            raise ValueError("segments begin at scene cuts: leave out --cuts off, or --segments")
        if job.segment_seconds is None:
            raise ValueError("segments need snapshots: leave out --no-resume, or --segments")
        if overwrite and self.segments.only is not None:
            raise ValueError(
                "one segment alone replaces nothing: give --overwrite to the command that joins them,"
                f" with --segments {self.segments.count}; to start over, delete {job.target.partial}"
            )

    def _settings(self) -> dict[str, Any]:
        """Of the whole: each machine may have devices of its own."""
        settings = {name: value for name, value in self.job.settings().items() if name not in ("device", "dtype")}
        return {**settings, "number of segments": self.segments.count}

    def _planned(self) -> list[Seam] | None:
        """Where segments meet, as it was written down for a run like this; None if it was not."""
        folder = self.job.target.partial
        if not has_journal(folder):
            return None
        Record.read(folder).check(folder, self._settings())
        return read_plan(folder) if has_plan(folder) else None

    def _found(self) -> list[Seam]:
        """Where segments meet, found now."""
        job, count = self.job, self.segments.count
        job.report.line(f"looking for scene cuts near which {job.source} can be split into {count} segments")
        quiet = replace(job, report=Silent(), warnings=[])
        with quiet.open_reader() as reader:
            if not reader.enters:
                job.report.line(
                    f"{job.source} is read from its beginning for each segment, for its format, or because it is"
                    " deinterlaced; MP4 and Matroska are entered in the middle"
                )
        seams = find_seams(lambda begin: quiet.open_reader(begin=begin), count)
        if len(seams) + 1 < count:
            found = f"{len(seams) + 1} segments" if seams else "one segment"
            job.report.line(f"{job.source} has scene cuts for {found} only, not for {count}")
        return seams

    def _run_one(self, number: int) -> None:
        job, folder = self.job, self.job.target.partial
        job.target.check(job.source, overwrite=True)  # it is the call that joins which replaces, or refuses to
        if self._planned() is None:
            self._share(self._found())
        parts = parts_between(read_plan(folder))
        if number > len(parts):
            job.report.line(f"there are {len(parts)} segments: nothing to do for segment {number}")
            return
        job.run_part(parts[number - 1], part_folder(folder, parts[number - 1]))

    def _share(self, seams: Sequence[Seam]) -> None:
        """Write down where segments meet, unless another machine has done so meanwhile."""
        folder, give_up = self.job.target.partial, time.monotonic() + PATIENCE
        while not has_plan(folder):
            try:
                with closing(Journal.share(folder, self._settings())):
                    if not has_plan(folder):
                        write_plan(folder, seams)
            except InUseError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)

    def _run_all(self, parts: Sequence[Part], total: int | None) -> None:
        """Upscale what is left of all segments; when one fails, the others still go on to their ends."""
        job, folder = self.job, self.job.target.partial
        folders = {part.number: part_folder(folder, part) for part in parts}
        records = {number: Record.read(place) for number, place in folders.items() if has_journal(place)}
        left = [part for part in parts if part.number not in records or records[part.number].stage == "running"]
        frames = {number: record.boundary.frames_out for number, record in records.items()}
        failures: dict[int, str] = {}

        def told(number: int, kind: str, said: Any) -> None:
            if kind == "frames":
                frames[number] = said
                job.frames = sum(frames.values())
                job.report.update(job.frames)
                if job.progress is not None:
                    job.progress(job.frames, total)
            elif kind == "failure":
                failures[number] = said
                job.report.line(f"segment {number} of {len(parts)} failed: {said}")
            elif said.startswith(WARNING):
                job.warn([said.removeprefix(WARNING)])
            else:
                job.report.line(f"segment {number} of {len(parts)}: {said}")

        job.frames = sum(frames.values())
        job.report.start(job.frames, total)
        with job.measure():
            if isinstance(job.model, str | Path):
                devices = devices_for(job.loading.device, len(left))
                jobs = [replace(job, loading=replace(job.loading, device=device)) for device in devices]
                run_in_processes(jobs, left, folders, told)
            else:
                run_in_turn(job, left, folders, told)
        if failures:
            raise SegmentError(_failed(failures, len(parts)))


def _failed(failures: dict[int, str], count: int) -> str:
    reasons = set(failures.values())
    if len(failures) == count and len(reasons) == 1:
        return reasons.pop()
    return "\n".join(f"segment {number} of {count} failed: {reason}" for number, reason in sorted(failures.items()))
