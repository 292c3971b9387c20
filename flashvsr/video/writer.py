"""Writing video: a file, a pipe, or a folder of images."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from torch import Tensor

from flashvsr.video.images import ImageSink, is_image_target
from flashvsr.video.info import VideoError, VideoInfo
from flashvsr.video.picture.alpha import DECODERS
from flashvsr.video.read.file_source import FileSource
from flashvsr.video.reader import VideoReader
from flashvsr.video.write.codecs import pick_codec
from flashvsr.video.write.encode import ContainerSink
from flashvsr.video.write.formats import pick_format

SEGMENT_SUFFIX = ".nut"
"""Usual ending for segments: NUT takes most codecs and keeps absolute times exactly, which `join_segments` needs."""

_WORST = 63  # the scale of AV1 and VP9; H.264 and HEVC end at 51
_LARGEST = 1 << 16


def segment_suffix(codec: str, *, alpha: bool = False) -> str:
    """The ending for segments of a codec: `SEGMENT_SUFFIX`, or that of a container which takes more.

    ``.mov`` for what only MOV takes, such as ProRes; ``.mkv`` for VP8 and VP9 with ``alpha``, which lies beside their
    packets.
    """
    if alpha and codec in DECODERS.values():
        return ".mkv"
    try:
        with av.open(io.BytesIO(), "w", format="nut") as trial:
            trial.add_stream(codec, rate=25)
    except (ValueError, av.FFmpegError):
        return ".mov"
    return SEGMENT_SUFFIX


class VideoWriter:
    """Frames into one encoded file, pipe or image folder. A context manager: `close` on success, `abort` on error.

    Writes at ``target`` itself: give it a temporary name (with the right ending) and rename when all is done.

    What is carried over from the source: bit depth (8, or 10 for all deeper), colour tags (in codec and container; the
    unspecified ones are filled in by `picture.pixels.resolve_colors`), frame rate, times (exact in MP4 and NUT, to 1 ms
    in Matroska; Y4M, AVI and raw streams hold a rate and no times, see `timing.Ticks`), pixel aspect, HDR10 mastering
    display and light level (with libx265), timecode. Dynamic HDR metadata (HDR10+, Dolby Vision) is dropped, for it
    describes other pixels. Odd sizes are written exactly, with full-resolution
    colour (yuv444p).

    Args:
        target: A file name (its ending picks the container), ``"-"`` for stdout, a network address such as
            ``udp://127.0.0.1:5000``, a folder (a name without an ending, or an existing folder) or printf pattern
            ``"dir/%05d.png"`` for PNG images.
        width: Columns of every frame.
        height: Rows of every frame.
        info: Of the source.
        codec: ``"auto"``: H.264 (libx264) for 8-bit SDR, 10-bit HEVC (libx265, tag hvc1) for HDR or deeper sources,
            VP9 or 10-bit AV1 in WebM, none in Y4M; or the name of any video encoder of PyAV.
        crf: Quality of the encoder, lower is better; 16 is visually lossless for x264 and x265.
        format: ``"auto"``: by the ending of ``target``, Matroska for stdout; or ``"matroska"``, ``"nut"``, ``"y4m"``,
            ``"mpegts"``, ``"mp4"``, ``"mov"``, ``"webm"`` and so on.
        copy_tracks_from: A reader, not yet iterated, whose audio and subtitle packets are copied while its frames are
            read (one pass, so it works for stdin), and whose last frame says how long the last is shown; None writes
            pictures only. For segments use None and let
            `join_segments` copy the tracks.
        first_number: For images: number of the first file (a resumed run goes on where it stopped).
        live: Frames leave as soon as the next one comes: the encoder does not look ahead, and begins anew every two
            seconds.

    Attributes:
        width: As given.
        height: As given.
        warnings: One line each: tracks that the container does not take, and the like.
        codec: The encoder in use (``"png"`` for images).
        alpha: Whether transparency is written: that of the source, where codec and container hold it.

    Raises:
        VideoError: Unknown codec or container, a ``crf`` or size out of range, MP4 to a pipe, unwritable folder, disk
            full, reader of the pipe gone.
    """

    warnings: list[str]
    codec: str
    alpha: bool

    def __init__(
        self,
        target: str | Path,
        *,
        width: int,
        height: int,
        info: VideoInfo,
        codec: str = "auto",
        crf: float = 16,
        format: str = "auto",
        copy_tracks_from: VideoReader | FileSource | None = None,
        first_number: int = 1,
        live: bool = False,
    ) -> None:
        if not 0 <= crf <= _WORST:
            raise VideoError(
                f"crf {crf:g} is not possible\nexpected 0 (lossless or nearly) to {_WORST}; 16 is very good"
            )
        if max(width, height) > _LARGEST:
            raise VideoError(f"{width}x{height} is larger than any encoder takes\nuse a smaller --scale")
        self.width, self.height = width, height
        self._done = False
        self._sink: ContainerSink | ImageSink
        self._source = copy_tracks_from
        queue = copy_tracks_from.tracks if copy_tracks_from is not None else None
        if format == "auto" and is_image_target(target):
            if codec not in ("auto", "png"):
                raise VideoError(
                    f"{target}: images are written as PNG, not {codec}\nleave the codec out, or name a video file"
                )
            self.codec = "png"
            self._sink = ImageSink(
                target,
                deep=info.bit_depth > 8,
                alpha=info.has_alpha,
                first_number=first_number,
                icc_profile=info.icc_profile,
            )
            self.warnings = list(self._sink.warnings)
            if queue is not None and queue.streams:
                self.warnings.append("images hold no sound or subtitles: none copied")
            if queue is not None and (queue.tags.texts or queue.tags.chapters):
                self.warnings.append("images hold no title, other tags or chapters: none copied")
        else:
            container = pick_format(target, format)
            self.codec = pick_codec(codec, container, info)
            self._sink = ContainerSink(
                target,
                size=(width, height),
                info=info,
                codec=self.codec,
                crf=crf,
                format=container,
                queue=queue,
                live=live,
            )
            self.warnings = self._sink.warnings
        self.alpha = self._sink.alpha

    def write(self, pixels: Tensor, time: Fraction, alpha: Tensor | None = None) -> None:
        """Append a frame.

        Args:
            pixels: `[3, H, W]` RGB on any device, uint8 or float in [0, 1] (clamped).
            time: Seconds since the first frame of the *source*; frames come in order.
            alpha: `[h, w]` in [0, 1], of any size (enlarged, bicubic), where ``self.alpha``; None is opaque.

        Raises:
            ValueError: If the frame has another size than the writer.
            VideoError: If it cannot be written.
        """
        if tuple(pixels.shape) != (3, self.height, self.width):
            raise ValueError(f"frame of shape {tuple(pixels.shape)}: expected [3, {self.height}, {self.width}]")
        self._sink.write(pixels, time, alpha)

    def close(self) -> None:
        """Flush the encoder and finish the file. Safe to call twice.

        Raises:
            VideoError: If the end cannot be written; the file is then deleted.
        """
        if self._done:
            return
        try:
            self._sink.close(None if self._source is None else self._source.last_duration)
        except BaseException:
            self.abort()
            raise
        self._done = True

    def abort(self) -> None:
        """Close without finishing and delete what was written. Nothing happens after `close`."""
        if not self._done:
            self._done = True
            self._sink.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()
