"""The progress of ``flashvsr upscale --json``: one JSON object a line on stdout, for scripts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashvsr.upscale import FileOutcome, FilePair, UpscaleResult

EVERY = 0.25  # seconds between two lines of progress at least


class Events:
    """Tells of runs as they go; the page on upscaling lists the fields.

    Args:
        write: Takes a line without its end; None prints it.

    Attributes:
        files: How many will be upscaled.
    """

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self.files, self._number = 1, 0
        self._write = write or (lambda line: print(line, flush=True, file=sys.stdout))
        self._input = ""
        self._begun: tuple[float, int] | None = None  # time and frames of the first line of progress
        self._told = 0.0

    def start(self, input: str, output: str) -> None:
        """A file is begun."""
        self._number += 1
        self._input, self._begun = input, None
        self._tell("start", output=output, file=self._number, files=self.files)

    def progress(self, done: int, total: int | None) -> None:
        """So many frames are finished of about so many, as `upscale_file` tells."""
        now = time.monotonic()
        if self._begun is not None and now - self._told < EVERY:
            return
        fps = eta = None
        if self._begun is None:
            self._begun = now, done
        elif done > self._begun[1]:
            fps = (done - self._begun[1]) / (now - self._begun[0])
            eta = None if total is None else round(max(0, total - done) / fps, 1)
        self._told = now
        self._tell("progress", frame=done, total=total, fps=None if fps is None else round(fps, 3), eta=eta)

    def done(self, result: UpscaleResult) -> None:
        """A file is complete."""
        self._tell(
            "done",
            output=result.output,
            frames=result.frames,
            seconds=round(result.seconds, 3),
            fps=round(result.fps, 3),
            warnings=result.warnings,
        )

    def error(self, message: str) -> None:
        """Something went wrong with the file at hand, or before any."""
        self._tell("error", message=message)

    def start_pair(self, pair: FilePair) -> None:
        """As `start`, for a list."""
        self.start(str(pair.source), str(pair.output))

    def end_pair(self, outcome: FileOutcome) -> None:
        """What became of a file of a list."""
        if outcome.result is not None:
            self.done(outcome.result)
        elif outcome.status == "skipped":
            self._tell("skipped", output=str(outcome.output))
        else:
            self.error(outcome.error)

    def end(self, status: int) -> None:
        """The command ends with this exit status."""
        self._input = ""
        self._tell("end", status=status)

    def _tell(self, event: str, **fields: Any) -> None:
        named = {"input": self._input} if self._input else {}
        self._write(json.dumps({"event": event, **named, **fields}))
