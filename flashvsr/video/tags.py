"""What a file says about itself: title, artist, time of creation, chapters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from flashvsr.video.info import VideoError, file_url, plain_errors

# tags in another encoding than UTF-8 are no reason to refuse a video; PyAV 19 thinks so itself and took the option away
LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}

_OF_THE_CONTAINER = ("major_brand", "minor_version", "compatible_brands", "encoder", "software", "duration")
_OF_A_TRACK = {"language": "language", "title": "title", "name": "title"}  # MP4 calls the title of a track its name
_HOLD_ALL = ("matroska", "webm", "nut")


def track_tags(stream: Any) -> dict[str, str]:
    """Language and title of a track, as `av.stream.Stream.metadata` takes them."""
    return {_OF_A_TRACK[key]: value for key, value in stream.metadata.items() if key in _OF_A_TRACK}


@dataclass(frozen=True)
class Tags:
    """The tags of a file as a whole, without those that describe only its container.

    Attributes:
        texts: Title, artist and so on, by FFmpeg's names.
        chapters: As PyAV has them, on the file's own clock.
        picture: Language and title of the picture's track.
    """

    texts: dict[str, str] = field(default_factory=dict)
    chapters: list[Any] = field(default_factory=list)
    picture: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, container: Any, picture: Any) -> Tags:
        """The tags of an open input; ``picture`` is its picture's stream."""
        texts = dict(container.metadata)
        if container.format.name == "ogg":  # which says everything of a track
            for stream in container.streams:
                texts = dict(stream.metadata) | texts
        texts = {key: value for key, value in texts.items() if key.lower() not in _OF_THE_CONTAINER}
        return cls(texts, container.chapters(), track_tags(picture))

    def cut(self, start: Fraction, end: Fraction | None) -> Tags:
        """The tags of the part between two times of the file's own clock, in seconds; None is its end."""
        chapters = []
        for chapter in self.chapters:
            unit = chapter["time_base"]
            begins, ends = chapter["start"] * unit, chapter["end"] * unit
            if ends > start and (end is None or begins < end):
                last = ends if end is None else min(ends, end)
                chapters.append(chapter | {"start": round(max(begins, start) / unit), "end": round(last / unit)})
        return replace(self, chapters=chapters)

    def write(self, container: Any, shift: Fraction) -> None:
        """Put them into an output before its header is written.

        Args:
            container: With its picture added.
            shift: Seconds from the input's clock to the output's.
        """
        container.metadata.update(self.texts)
        container.streams.video[0].metadata.update(self.picture)
        chapters = []
        for chapter in self.chapters:
            ticks = round(shift / chapter["time_base"])
            start = max(0, chapter["start"] + ticks)
            chapters.append(chapter | {"start": start, "end": max(start, chapter["end"] + ticks)})
        container.set_chapters(chapters)

    def lost(self, path: Path | None, format: str) -> list[str]:
        """Lines that name what an output, which is finished, does not hold.

        Args:
            path: The file; None for a pipe, of which only the format is known.
            format: Name of its container.
        """
        found, chapters = self.texts, len(self.chapters)
        if path is not None:
            found, chapters = _held(path)
        elif format not in _HOLD_ALL:
            found, chapters = {}, 0
        kept = {key.lower() for key in found}
        missing = sorted(key for key in self.texts if key.lower() not in kept)
        lines = [f"{format} does not hold the tags {', '.join(missing)}: they are not copied"] if missing else []
        if chapters < len(self.chapters):
            lines.append(f"{format} does not hold chapters: {len(self.chapters)} are not copied")
        return lines


def _held(path: Path) -> tuple[dict[str, str], int]:
    try:
        with plain_errors(f"cannot read {path}", "run again"), av.open(file_url(path), **LENIENT) as container:
            return Tags.read(container, container.streams.video[0]).texts, len(container.chapters())
    except (VideoError, IndexError):  # a raw stream that FFmpeg writes and does not know again: it holds no tags
        return {}, 0
