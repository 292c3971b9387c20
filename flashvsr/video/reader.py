"""Reading video from anywhere: a file, a pipe, a folder of images, or the built-in example."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from flashvsr.video.example import ExampleSource
from flashvsr.video.images import ImageSource, is_pattern, is_picture
from flashvsr.video.info import VideoError, VideoFrame, VideoInfo
from flashvsr.video.read.deinterlace import Deinterlace
from flashvsr.video.read.demux import Demuxer
from flashvsr.video.read.file_source import FileSource
from flashvsr.video.read.webp import AnimatedWebP, is_animated_webp
from flashvsr.video.tracks import TrackQueue
from flashvsr.video.trim import WHOLE, Trim

EXAMPLE = "example:"


class VideoReader:
    """Frames of a video, upright, RGB, one at a time. A context manager and an iterator; iterate once.

    The first frame is decoded when the reader is made, so a file that is missing, not a video or empty fails
    there. Memory does not grow with the length of the video.

    Which picture: the first video track that is not a cover, even when a larger one follows. Rotation, mirroring and
    cropping (of the codec and of the container) are applied to the pixels. Colours that are not tagged are read as
    `picture.pixels.resolve_colors` says. Times are as in the file, relative to the first frame; `timing.Clock` says
    what happens to missing and repeated ones, `timing.Joins` to joined recordings.

    Args:
        source: A video or picture file; ``"-"`` for stdin; a folder of images (natural order); a printf pattern such as
            ``"frames/%05d.png"``; or ``"example:"``, a clip rendered by code.
        fps: Frame rate for what has no timestamps: raw H.264/HEVC and images. None: the rate that the stream
            states, else 25, with a line in ``warnings``. Files that have timestamps keep them (with a warning).
        begin: Seconds since the first frame of the part that is wanted, where to begin to read: the first frame shown
            then or later is the first one given. Where the file ``enters``, those before are not even decoded; else
            they are decoded and dropped. The times of the rest are unchanged.
        skip: Frames to decode and drop first (a resumed run); the times of the rest are unchanged.
        trim: The part that is wanted. Its first frame is frame 0, at time 0; sound, subtitles and chapters are cut with
            it, at the ends of packets. What comes before is decoded and dropped; a picture is taken whole.
        deinterlace: What to do with the fields of interlaced video: ``"off"`` treats it as progressive; ``"field"``
            makes a frame of each field, at its own time; ``"frame"`` one of each frame; ``"film"`` undoes 3:2 pulldown,
            which gives four frames for five. ``"auto"`` looks at the first frames, and their flags where nothing moves,
            and takes ``"field"``, ``"film"`` or ``"off"``, with a line in ``warnings`` where that is not plain.

    Attributes:
        info: What is known about the video.
        warnings: One line each, for the user; may grow while reading.
        enters: Whether frames can be read from the middle, without all that come before.
        tracks: Packets of audio and subtitle tracks for a `VideoWriter`; None for images and the example.

    Raises:
        VideoError: On opening or while iterating: missing, not a video, no video stream, no frames, truncated or
            damaged (says at which second, after the good frames were delivered).
    """

    info: VideoInfo
    warnings: list[str]
    enters: bool
    tracks: TrackQueue | None

    def __init__(
        self,
        source: str | Path,
        *,
        fps: Fraction | None = None,
        begin: Fraction = Fraction(0),
        skip: int = 0,
        trim: Trim = WHOLE,
        deinterlace: Deinterlace = "off",
    ) -> None:
        if fps is not None and fps <= 0:
            raise VideoError(f"frame rate {fps} is not possible\nexpected a positive number such as 25 or 30000/1001")
        if skip < 0:
            raise ValueError(f"skip={skip} is negative: expected the number of frames to drop")
        self._source = _open(str(source), fps, begin, trim, deinterlace)
        if begin and not isinstance(self._source, FileSource):
            raise ValueError(f"begin={begin} is for video files, which {source} is not: use skip")
        self._skip = skip
        self.enters = isinstance(self._source, FileSource) and self._source.enters
        self.info = self._source.info
        self.warnings = self._source.warnings
        self.tracks = self._source.tracks

    def __iter__(self) -> Iterator[VideoFrame]:
        return self._source.frames(self._skip)

    @property
    def last_duration(self) -> Fraction | None:
        """How long the last frame is shown, in seconds; None when unknown, as before the end of a file."""
        return self._source.last_duration

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(
    source: str, fps: Fraction | None, begin: Fraction, trim: Trim, deinterlace: Deinterlace
) -> FileSource | ImageSource | ExampleSource | AnimatedWebP:
    if source == EXAMPLE:
        return ExampleSource(trim)
    if source != "-" and (
        is_picture(source) or (not Path(source).is_file() and (Path(source).is_dir() or is_pattern(source)))
    ):
        return ImageSource(source, fps=fps, trim=trim)
    if is_animated_webp(source):
        return AnimatedWebP(source, trim=trim)
    return FileSource(Demuxer(source), fps=fps, begin=begin, trim=trim, deinterlace=deinterlace)
