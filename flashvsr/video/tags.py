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
_TIMECODE = "timecode"
_HOLD_ALL = ("matroska", "webm", "nut")


def track_tags(stream: Any) -> dict[str, str]:
    """Language and title of a track, as `av.stream.Stream.metadata` takes them."""
    return {_OF_A_TRACK[key]: value for key, value in stream.metadata.items() if key in _OF_A_TRACK}


def _timecode(picture: Any) -> dict[str, str]:
    """What MOV has in a track of its own, and Matroska in capitals."""
    found = next((value for key, value in picture.metadata.items() if key.lower() == _TIMECODE), None)
    return {} if found is None else {_TIMECODE: found}


@dataclass(frozen=True)
class Tags:
    """The tags of a file as a whole, without those that describe only its container.

    Attributes:
        texts: Title, artist and so on, by FFmpeg's names.
        chapters: As PyAV has them, on the file's own clock.
        picture: Language, title and timecode of the picture's track.
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
        return cls(texts, container.chapters(), track_tags(picture) | _timecode(picture))

    @property
    def has_timecode(self) -> bool:
        """Whether the first frame has a timecode."""
        return _TIMECODE in self.picture

    def without_timecode(self) -> Tags:
        """The same where frames are counted anew."""
        return replace(self, picture={key: value for key, value in self.picture.items() if key != _TIMECODE})

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
        found, chapters, timecode = self.texts, len(self.chapters), True
        if path is not None:
            found, chapters, timecode = _held(path)
        elif format not in _HOLD_ALL:
            found, chapters, timecode = {}, 0, False
        kept = {key.lower() for key in found}
        missing = sorted(key for key in self.texts if key.lower() not in kept)
        lines = [f"{format} does not hold the tags {', '.join(missing)}: they are not copied"] if missing else []
        if chapters < len(self.chapters):
            lines.append(f"{format} does not hold chapters: {len(self.chapters)} are not copied")
        if self.has_timecode and not timecode:
            lines.append(f"{format} does not hold the timecode {self.picture[_TIMECODE]}: it is not copied")
        return lines


def _held(path: Path) -> tuple[dict[str, str], int, bool]:
    """Tags of a file, how many chapters it has, and whether it has a timecode."""
    try:
        with plain_errors(f"cannot read {path}", "run again"), av.open(file_url(path), **LENIENT) as container:
            tags = Tags.read(container, container.streams.video[0])
            return tags.texts, len(tags.chapters), tags.has_timecode
    except (VideoError, IndexError):  # a raw stream that FFmpeg writes and does not know again: it holds no tags
        return {}, 0, False
