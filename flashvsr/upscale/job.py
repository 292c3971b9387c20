"""What a run does, step by step: check, open, flow, join, give the result its name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flashvsr import __version__
from flashvsr.streaming import FrameStream, StreamingModel
from flashvsr.upscale.encode import join, try_join
from flashvsr.upscale.errors import ResumeError
from flashvsr.upscale.fingerprint import asked_for
from flashvsr.upscale.flow import flow_segments, flow_whole
from flashvsr.upscale.journal import Journal
from flashvsr.upscale.options import ClipOptions, EncodeOptions, LoadOptions
from flashvsr.upscale.parts import WHOLE_CLIP, Part
from flashvsr.upscale.pipeline import read_ahead
from flashvsr.upscale.progress import Reporter, size
from flashvsr.upscale.record import Boundary, Record, has_journal
from flashvsr.upscale.scenes import Scenes
from flashvsr.upscale.softness import SoftnessMeter
from flashvsr.upscale.target import Target
from flashvsr.video import VideoReader, VideoWriter, is_pipe, segment_suffix

WARNING = "warning: "
ALREADY_SHRUNK = 2  # up to this enlargement the model gets half of the input's rows, so a soft input is no matter


@dataclass
class Job:
    """One run, its settings, and what has come of it so far.

    Attributes:
        source: The input.
        target: The output.
        model: Name or folder of a model, or a model that opens streams.
        clip: Which part of the input, and to what size.
        loading: How a name or folder is loaded.
        encoding: How the output is encoded.
        scale: Enlargement.
        seed: Of the noise.
        segment_seconds: Video time between two snapshots; None keeps nothing that another run could go on from.
        report: Where to say what happens.
        progress: Told the frames finished and the estimated total.
        frames: Frames in the output, so far.
        fps_reached: Frames per second of this run.
        warnings: One line each.
    """

    source: str
    target: Target
    model: str | Path | StreamingModel
    clip: ClipOptions
    loading: LoadOptions
    encoding: EncodeOptions
    scale: float
    seed: int
    segment_seconds: float | None
    report: Reporter
    progress: Callable[[int, int | None], None] | None
    frames: int = 0
    fps_reached: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.segment_seconds is not None and not self.segment_seconds > 0:
            raise ValueError(f"the length of a segment must be positive, got {self.segment_seconds} s")

    @property
    def resumable(self) -> bool:
        """Whether another run could go on from what this one leaves behind."""
        passes_once = self.target.kind == "pipe" or is_pipe(self.source)
        return self.segment_seconds is not None and self.target.kind != "picture" and not passes_once

    def check(self, *, resume: bool, overwrite: bool) -> bool:
        """Refuse what cannot work, before anything is opened; True if there is a partial folder to go on from."""
        if resume and not self.resumable and self.target.kind != "picture":  # which is begun again
            none_kept = self.segment_seconds is None
            reason = "there are no snapshots" if none_kept else "stdin, stdout and pipes pass only once"
            raise ResumeError(f"this run cannot be resumed, {reason}: leave --resume out")
        if self.target.kind == "pipe":
            return False
        folder = self.target.partial
        goes_on = resume and has_journal(folder)
        # After a kill between renaming the result and deleting the folder, the output is there by that very run.
        placed = goes_on and Record.read(folder).stage == "joined"
        goes_on = goes_on and self.resumable
        self.target.check(self.source, overwrite=overwrite or placed)
        if folder.exists() and not (resume or overwrite):
            raise ResumeError(
                f"{folder} is left by an earlier run: go on with --resume, or start over with --overwrite"
            )
        return goes_on

    def warn(self, lines: Iterable[str]) -> None:
        """Say what has not been said yet."""
        for line in lines:
            if line not in self.warnings:
                self.warnings.append(line)
                self.report.line(f"{WARNING}{line}")

    def run(self, *, goes_on: bool) -> None:
        """Do it, and fill in what came of it."""
        # A new run opens its input first: a bad file should fail before a model is loaded.
        reader = None if goes_on else self.open_reader()
        system = self._load()
        if reader is not None and self.target.kind == "pipe":
            self._flow_whole(reader, system, "-")
            return
        with self._open_journal(self.target.partial, system, goes_on) as journal:
            self.frames = journal.record.boundary.frames_out
            if journal.record.stage == "running":
                reader = reader or self.open_reader(skip=journal.record.boundary.frames_out)
                if journal.record.resumable and self.segment_seconds is not None:
                    self._flow_segments(reader, system, journal, self.segment_seconds)
                else:
                    joined = journal.joined(self.target.suffix)
                    self._flow_whole(reader, system, joined)
                    journal.mark_joined(joined)
            self.finish(journal)

    def run_part(self, part: Part, folder: Path) -> None:
        """Upscale a part of the video into closed segments in a folder of its own, going on where it was left."""
        begun = has_journal(folder)
        if begun and Record.read(folder).stage == "written":
            self.frames = Record.read(folder).boundary.frames_out
            return
        system = self._load()
        folder.mkdir(exist_ok=True)
        with closing(self._open_journal(folder, system, begun)) as journal:
            self.frames = journal.record.boundary.frames_out
            reader = self.open_reader(begin=part.begin, skip=self.frames)
            self._flow_segments(reader, system, journal, float(self.segment_seconds or 0), part)

    def finish(self, journal: Journal) -> None:
        """Join what is in closed segments, unless that is done, and give the result its name."""
        if journal.record.stage == "written":
            self.warn(join(journal, self.target, self.source, format=self.encoding.format, trim=self.clip.trim))
        self.target.place(journal.joined(self.target.suffix), self.frames)

    def open_reader(self, *, begin: Fraction = Fraction(0), skip: int = 0) -> VideoReader:
        """Open the input at a time, in seconds since the clip's first frame, or after so many frames."""
        # In a thread of its own: a read from a pipe without a writer cannot be interrupted.
        trim = self.clip.trim

        def produce(put: Callable[[VideoReader], None]) -> None:
            fps, deinterlace = self.encoding.fps, self.encoding.deinterlace
            put(VideoReader(self.source, fps=fps, begin=begin, skip=skip, trim=trim, deinterlace=deinterlace))

        with read_ahead(produce, size=1) as opened:
            reader = next(opened)
        self.warn(reader.warnings)
        return reader

    def _load(self) -> StreamingModel:
        if not isinstance(self.model, str | Path):
            return self.model
        from flashvsr.models.loading import load

        return load(self.model, **vars(self.loading))

    def settings(self) -> dict[str, Any]:
        """Everything that shapes the frames and is known before the model is loaded."""
        return {
            "version of flashvsr": __version__,
            **asked_for(
                self.source,
                self.model,
                clip=self.clip,
                loading=self.loading,
                encoding=self.encoding,
                scale=self.scale,
                seed=self.seed,
            ),
            "length of a segment": None if self.segment_seconds is None else float(self.segment_seconds),
        }

    def _open_journal(self, folder: Path, system: StreamingModel, goes_on: bool) -> Journal:
        if not self.resumable:
            return Journal.create(folder, {}, resumable=False)
        dtype = str(getattr(system, "dtype", self.loading.dtype))
        settings = {**self.settings(), "device": _device(system).type, "dtype": dtype}
        return Journal.resume(folder, settings) if goes_on else Journal.create(folder, settings)

    def _open_scenes(self, reader: VideoReader, system: StreamingModel, state: dict[str, Any] | None) -> Scenes:
        height, width = reader.info.height, reader.info.width
        scale = self.clip.target(reader.info, self.scale)

        def open_stream(state: dict[str, Any] | None) -> FrameStream:
            return system.stream(height=height, width=width, scale=scale, seed=self.seed, state=state)

        factor = scale[0] / height if isinstance(scale, tuple) else scale
        watch = SoftnessMeter(reader.info, partial(self._say_soft, reader)) if factor > ALREADY_SHRUNK else None
        return Scenes(open_stream, look=self.clip.cuts == "auto", state=state, watch=watch)

    def _say_soft(self, reader: VideoReader) -> None:
        height, width = reader.info.height // 2, reader.info.width // 2
        half = f"--scale {self.scale / 2:g}" if self.clip.target(reader.info, 0) == 0 else "half the size asked for"
        self.warn(
            [
                f"{reader.info.source} is soft, as if it had been enlarged: {width} x {height} pixels would hold as"
                f" much; {half} shrinks it to these first and takes a quarter of the time"
            ]
        )

    def _open_writer(self, reader: VideoReader, target: str | Path, **options: Any) -> VideoWriter:
        info = reader.info
        scale = self.clip.target(info, self.scale)
        height, width = scale if isinstance(scale, tuple) else (round(scale * info.height), round(scale * info.width))
        encoding = {"codec": self.encoding.codec, "crf": self.encoding.crf, "format": self.encoding.format}
        return VideoWriter(target, width=width, height=height, info=info, **{**encoding, **options})

    def _flow_whole(self, reader: VideoReader, system: StreamingModel, target: str | Path) -> None:
        scenes = self._open_scenes(reader, system, None)
        if self.target.is_images:
            target = Path(target) / self.target.image_pattern
        writer = self._open_writer(reader, target, copy_tracks_from=reader)
        self.warn(writer.warnings)
        with self.measure():
            self.frames = flow_whole(
                reader, scenes, writer, device=_device(system), on_progress=self._progress_of(reader)
            )
        self.warn([*reader.warnings, *writer.warnings])

    def try_output(self, reader: VideoReader, journal: Journal) -> VideoWriter:
        """What the final container does not take must fail now, not when hours later the segments are joined.

        Returns:
            A writer of it, aborted, whose codec and warnings hold.
        """
        trial = self._open_writer(reader, journal.joined(self.target.suffix), copy_tracks_from=reader)
        trial.abort()
        if reader.tracks is not None:
            reader.tracks.want(set())  # they are read again when the segments are joined
        self.warn(trial.warnings)
        if not self.target.is_images:
            path = journal.new_segment(segment_suffix(trial.codec, alpha=trial.alpha))
            with self._open_writer(reader, path, codec=trial.codec, format="auto") as writer:
                writer.write(torch.zeros(3, writer.height, writer.width), Fraction(0))
            try_join(path, journal.joined(self.target.suffix), format=self.encoding.format)
        return trial

    def _flow_segments(
        self,
        reader: VideoReader,
        system: StreamingModel,
        journal: Journal,
        segment_seconds: float,
        part: Part = WHOLE_CLIP,
    ) -> None:
        scenes = self._open_scenes(reader, system, journal.load_state() or part.state)
        trial = self.try_output(reader, journal)

        def open_segment() -> tuple[Path, VideoWriter]:
            if not self.target.is_images:
                path = journal.new_segment(segment_suffix(trial.codec, alpha=trial.alpha))
                return path, self._open_writer(reader, path, codec=trial.codec, format="auto")
            path, number = journal.new_segment(""), journal.record.boundary.frames_out + 1
            return path, self._open_writer(reader, path / self.target.image_pattern, first_number=number)

        with self.measure():
            self.frames = flow_segments(
                reader,
                scenes,
                journal,
                open_segment,
                device=_device(system),
                segment_seconds=segment_seconds,
                on_progress=self._progress_of(reader),
                on_snapshot=self._report_snapshot if part is WHOLE_CLIP else lambda boundary, count: None,
                part=part,
            )
        self.warn([*reader.warnings, *trial.warnings])

    def _progress_of(self, reader: VideoReader) -> Callable[[int], None]:
        self.report.start(self.frames, reader.info.frames)

        def on_progress(done: int) -> None:
            self.report.update(done)
            if self.progress is not None:
                self.progress(done, reader.info.frames)

        return on_progress

    def _report_snapshot(self, boundary: Boundary, count: int) -> None:
        where = f"{self.target.partial}, after {boundary.frames_out} frames"
        self.report.line(f"snapshot of {size(count)} in {where}; --no-resume turns it off")

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Take the time of the body, in which frames are finished."""
        before, began = self.frames, time.monotonic()
        yield
        self.fps_reached = (self.frames - before) / (time.monotonic() - began)


def _device(system: StreamingModel) -> torch.device:
    """Where a system computes; on the CPU when it does not say, as `Stream` has it."""
    return torch.device(getattr(system, "device", "cpu"))
