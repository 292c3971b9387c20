"""One run, from its arguments to a finished file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flashvsr.streaming import StreamingModel
from flashvsr.upscale.job import Job
from flashvsr.upscale.options import ClipOptions, EncodeOptions, LoadOptions
from flashvsr.upscale.progress import duration, frame_count, reporter
from flashvsr.upscale.segments import SegmentedRun, Segments
from flashvsr.upscale.target import Target


@dataclass(frozen=True)
class UpscaleResult:
    """What a run did.

    Attributes:
        output: The output as its caller wrote it.
        frames: Frames in the output, those of a resumed run's predecessors included.
        seconds: Wall time of this run, loading the model included.
        fps: Frames per second of this run, from the first frame read to the last one written; 0 when none was left.
        warnings: One line each: audio that the container does not take, and the like.
    """

    output: str
    frames: int
    seconds: float
    fps: float
    warnings: list[str] = field(default_factory=list)


def upscale_file(
    input: str | Path,
    output: str | Path,
    *,
    model: str | Path | StreamingModel = "nano",
    clip: ClipOptions = ClipOptions(),
    loading: LoadOptions = LoadOptions(),
    scale: float = 4,
    seed: int = 0,
    encoding: EncodeOptions = EncodeOptions(),
    overwrite: bool = False,
    resume: bool = False,
    segment_seconds: float | None = 60,
    segments: int | str | None = None,
    quiet: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> UpscaleResult:
    """Upscale a video file as one stream, in memory that does not grow with its length.

    Reading, upscaling and writing overlap. Times, rational frame rate, colour tags, bit depth, audio and subtitles are
    those of the input. The output gets its name when it is complete; until then everything is in ``OUTPUT.partial/``:
    closed segments of about ``segment_seconds`` and one snapshot of the stream where the last of them ends. A run that
    fails or is killed at any moment goes on from there with ``resume=True`` and gives the same frames.

    Args:
        input: Video file, image folder, printf pattern such as ``"frames/%05d.png"``, ``"-"`` for stdin, or
            ``"example:"`` for a short clip rendered by code.
        output: Video file, image folder (a name without an ending), printf pattern, or ``"-"`` for stdout.
        model: ``"nano"``, a model folder (ours or an official download), or a system: any object whose
            ``stream(height=, width=, scale=, seed=, state=)`` works like that of `flashvsr.FlashVSR`.
        clip: Which part of the input is upscaled, and to what size in place of ``scale``.
        loading: How a model is loaded from its name or folder: decoder, device, dtype and so on. Not used for a system.
        scale: Enlargement; the output has ``round(scale * height)`` rows.
        seed: Of the noise; the same seed gives the same frames.
        encoding: Codec, quality, container, and the frame rate of an input that states none.
        overwrite: Replace an existing output, and start over when an earlier run left a partial folder.
        resume: Go on from the partial folder, if there is one.
        segment_seconds: Length of video between two snapshots, which ``resume`` needs. None keeps none, which saves the
            disk space; a killed run then starts over.
        segments: Split the video at the scene cuts nearest to equal lengths, and upscale so many segments at the same
            time, each in a process of its own; ``loading.device`` lists the devices that they take in turn. The model
            starts anew at every cut anyway, so the frames are the same. ``"2/4"`` upscales only the second of four, and
            keeps it in the partial folder, which several machines may share; ``resume=True`` with ``4`` then upscales
            what is left, and joins them. A model that is a system upscales them one after the other in this process.
        quiet: Show nothing. Otherwise a bar on stderr when that is a terminal, else a line about every ten seconds.
        progress: Called with the frames finished and the estimated total (None: unknown) as they come.

    Returns:
        What was done.

    Raises:
        VideoError: If the input cannot be read or the output cannot be written.
        FileExistsError: If the output is there and ``overwrite`` is not given.
        FileNotFoundError: If the folder for the output does not exist.
        ResumeError: If the partial folder is another run's or in use, or a pipe is to be resumed.
        ValueError: If an option makes no sense, input and output are the same, or frames are smaller than 16 pixels.
        SegmentError: If segments fail. The others are finished and kept.
        torch.OutOfMemoryError: If the GPU's memory does not suffice.
        KeyboardInterrupt: When interrupted. What can be resumed is kept; a note on the error says where.
    """
    began = time.monotonic()
    with reporter(quiet=quiet) as report:
        job = Job(
            source=str(input),
            target=Target.parse(output, encoding.format),
            model=model,
            clip=clip,
            loading=loading,
            encoding=encoding,
            scale=scale,
            seed=seed,
            segment_seconds=segment_seconds,
            report=report,
            progress=progress,
        )
        name = "stdout" if job.target.kind == "pipe" else str(output)
        if segments is None:
            job.run(goes_on=job.check(resume=resume, overwrite=overwrite))
        else:
            split = Segments.parse(segments)
            SegmentedRun(job, split).run(resume=resume, overwrite=overwrite)
            name = name if split.only is None else f"segment {segments} of {name}"
        seconds = time.monotonic() - began
        report.line(f"{name}: {frame_count(job.frames)} in {duration(seconds)}, {job.fps_reached:.2f} fps")
    return UpscaleResult(str(output), job.frames, seconds, job.fps_reached, job.warnings)
