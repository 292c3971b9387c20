"""``journal.json``: what of a partial folder counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from flashvsr.upscale.disk import flush, to_disk
from flashvsr.upscale.errors import ResumeError

FORMAT = 2  # of journal.json; another number is refused
JOURNAL = "journal.json"
FRESH = "journal.new"  # written first, then renamed
START_OVER = "go back to what it was made with, or start over with --overwrite"


@dataclass(frozen=True)
class Boundary:
    """Where a closed segment ends.

    Attributes:
        frames_in: Input frames that the stream has taken.
        frames_out: Output frames in the closed segments.
        pending: Times of the frames taken and not yet given back, in seconds since the clip's first frame.
        last_duration: At the end of the clip, how long the last frame is shown, in seconds; None when unknown.
    """

    frames_in: int = 0
    frames_out: int = 0
    pending: tuple[Fraction, ...] = ()
    last_duration: Fraction | None = None


@dataclass(frozen=True)
class Record:
    """What ``journal.json`` says.

    Attributes:
        settings: Everything that shapes the frames, by the name a person knows it under; as JSON keeps it.
        resumable: Whether snapshots are kept. Without them the folder is only a place to work in.
        segments: The closed segments, in order: their paths in the folder.
        boundary: Where the last closed segment ends.
        snapshot: Name of the file with the stream's state at the boundary; None at the start and at the end.
        stage: ``"running"``, ``"written"`` (every frame is in a closed segment) or ``"joined"`` (the result is put
            together; it is about to get its final name, or has it).
    """

    settings: dict[str, Any]
    resumable: bool = True
    segments: tuple[str, ...] = ()
    boundary: Boundary = field(default_factory=Boundary)
    snapshot: str | None = None
    stage: str = "running"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Look into a partial folder without locking or changing it.

        Raises:
            ResumeError: If it holds no journal, or one that is damaged or of another format.
        """
        path = folder / JOURNAL
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ResumeError(f"{path} was written by another version of flashvsr: {START_OVER}")
            boundary = content.pop("boundary")
            boundary["pending"] = tuple(Fraction(time) for time in boundary["pending"])
            last = boundary.get("last_duration")
            boundary["last_duration"] = None if last is None else Fraction(last)
            segments = tuple(content.pop("segments"))
            return cls(segments=segments, boundary=Boundary(**boundary), **content)
        except FileNotFoundError:
            raise ResumeError(f"{folder} holds no journal, so nothing can be resumed: {START_OVER}") from None
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ResumeError(f"{path} is damaged ({error}): {START_OVER}") from error

    def write(self, folder: Path) -> None:
        """Replace the journal of a folder, atomically."""
        content = {"format": FORMAT, **asdict(self)}
        content["boundary"]["pending"] = [str(time) for time in self.boundary.pending]
        last = self.boundary.last_duration
        content["boundary"]["last_duration"] = None if last is None else str(last)
        fresh = folder / FRESH
        fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
        to_disk(fresh)
        fresh.replace(folder / JOURNAL)
        flush(folder)

    def check(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Refuse to go on under other settings.

        Raises:
            ResumeError: If there are any; each is named.
        """
        if differences := self.differences(settings):
            raise ResumeError(f"{folder} was made with another {', another '.join(differences)}: {START_OVER}")

    def differences(self, settings: Mapping[str, Any]) -> list[str]:
        """Each setting that is not the same here and there, with both values."""
        return [
            f"{name} (then {self.settings.get(name)}, now {settings.get(name)})"
            for name in {**self.settings, **settings}
            if self.settings.get(name) != settings.get(name)
        ]


def has_journal(folder: Path) -> bool:
    """Whether a run got as far as writing a journal into this folder."""
    return (folder / JOURNAL).exists()
