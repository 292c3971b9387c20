"""Read, upscale and write at the same time: the three ends of a run tied together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch

from flashvsr.upscale.encode import Cut, Piece, encode_segments, encode_whole
from flashvsr.upscale.journal import Journal
from flashvsr.upscale.parts import WHOLE_CLIP, Part
from flashvsr.upscale.pipeline import read_ahead, write_behind
from flashvsr.upscale.record import Boundary
from flashvsr.upscale.scenes import Scenes
from flashvsr.video import Marked, VideoFrame, VideoReader, VideoWriter, fill_transparent

READ_AHEAD = 16  # frames of the input's size
WRITE_BEHIND = 1  # pieces of up to 21 frames of the output's size: one waits while another is encoded


def flow_whole(
    reader: VideoReader,
    scenes: Scenes,
    writer: VideoWriter,
    *,
    device: torch.device,
    on_progress: Callable[[int], None],
) -> int:
    """Upscale a whole video into one file or pipe.

    Args:
        reader: Where frames come from; closed at the end.
        scenes: Of the model, not used yet.
        writer: Where they go; closed at the end, or aborted.
        device: Of the model.
        on_progress: Told how many frames are finished, now and then.

    Returns:
        Frames written.
    """
    with (
        write_behind(partial(encode_whole, writer=writer), size=WRITE_BEHIND) as put,
        read_ahead(partial(_read, reader, scenes, device, writer.alpha), size=READ_AHEAD) as frames,
    ):
        return upscale_frames(
            frames, scenes, put, start=Boundary(), segment_seconds=None, on_progress=on_progress
        ).frames_out


def flow_segments(
    reader: VideoReader,
    scenes: Scenes,
    journal: Journal,
    open_segment: Callable[[], tuple[Path, VideoWriter]],
    *,
    device: torch.device,
    segment_seconds: float,
    on_progress: Callable[[int], None],
    on_snapshot: Callable[[Boundary, int], None],
    part: Part = WHOLE_CLIP,
) -> int:
    """Upscale what is left of a video, or of a part of it, into segments of a partial folder.

    Args:
        reader: Gives the frames from the first on that is in no closed segment; closed at the end.
        scenes: In the state that belongs to the boundary.
        journal: The partial folder; at stage ``"written"`` afterwards.
        open_segment: Starts the next segment.
        device: Of the model.
        segment_seconds: Length of a segment, in video time.
        on_progress: Told how many frames are finished, now and then.
        on_snapshot: Told where each snapshot is and its size in bytes, from another thread.
        part: What is upscaled.

    Returns:
        Frames in all segments.
    """
    start = journal.record.boundary
    first = open_segment()  # here, so that an unknown codec fails before the first chunk is computed
    encode = partial(encode_segments, journal=journal, open_segment=open_segment, first=first, on_snapshot=on_snapshot)
    read = partial(_read, reader, scenes, device, first[1].alpha, part=part, from_the_first=not start.frames_in)
    with (
        write_behind(encode, size=WRITE_BEHIND) as put,
        read_ahead(read, size=READ_AHEAD) as frames,
    ):
        end = upscale_frames(frames, scenes, put, start=start, segment_seconds=segment_seconds, on_progress=on_progress)
        put(Cut(replace(end, last_duration=reader.last_duration), state=None))
    return end.frames_out


def upscale_frames(
    frames: Iterable[Marked],
    scenes: Scenes,
    put: Callable[[Piece | Cut], None],
    *,
    start: Boundary,
    segment_seconds: float | None,
    on_progress: Callable[[int], None],
) -> Boundary:
    """Push frames one at a time and pass on what comes out, with the times of the frames that went in.

    One at a time, so that where segments are cut depends on nothing but the video: a resumed run cuts at the same
    frames. A cut comes where the stream has just given all it can and holds the frames of the next chunk at most.

    Args:
        frames: Input frames from the first on that ``start`` has not given back; where a cut is marked, the model
            starts anew.
        scenes: A model's streams in the state that belongs to ``start``.
        put: Takes the pieces and cuts.
        start: Where an earlier run ended.
        segment_seconds: Length of a segment in video time; None makes no cuts.
        on_progress: Told how many frames are finished.

    Returns:
        The end of the clip.

    Raises:
        RuntimeError: If the model does not give as many frames as it took.
    """
    taken, given = start.frames_in, start.frames_out
    frames = iter(frames)
    pending: deque[tuple[Fraction, torch.Tensor | None]] = deque()  # times and opacity of frames that the stream holds
    for time, marked in zip(start.pending, frames, strict=False):
        pending.append((time, marked.frame.alpha))
        scenes.remember(marked, held=len(pending))
    opened: Fraction | None = None  # time of the first frame of the segment
    due = False  # whether the segment is long enough

    def pass_on(out: torch.Tensor) -> Fraction:
        nonlocal given, opened
        times, alphas = map(list, zip(*(pending.popleft() for _ in range(len(out))), strict=True))
        put(Piece.fetch(out, times, alphas))
        given += len(out)
        opened = times[0] if opened is None else opened
        on_progress(given)
        return times[-1] - opened

    for marked in frames:
        if due:  # and a frame follows, so that no segment is ever empty
            state = scenes.state_dict(held=len(pending))
            put(Cut(Boundary(taken, given, tuple(time for time, _ in pending)), state))
            opened, due = None, False
        if marked.is_cut and len(left := scenes.end_scene()):
            pass_on(left)
        taken += 1
        pending.append((marked.frame.time, marked.frame.alpha))
        scenes.remember(marked, held=len(pending))
        if len(out := scenes.stream.push(marked.frame.pixels[None])):
            length = pass_on(out)
            due = segment_seconds is not None and length >= segment_seconds
    if len(tail := scenes.stream.finish()):
        pass_on(tail)
    if pending:
        raise RuntimeError(f"the model took {taken} frames and gave {given}")
    return Boundary(taken, given)


def _read(
    reader: VideoReader,
    scenes: Scenes,
    device: torch.device,
    alpha: bool,
    put: Callable[[Marked], None],
    *,
    part: Part = WHOLE_CLIP,
    from_the_first: bool = True,
) -> None:
    """Hand frames over on the model's device: a stream gives frames back where it got them, to be fetched meanwhile.

    With ``alpha`` their opacity goes along, and the colours of what is not seen make way for those of what is.
    """
    with reader:
        for marked in scenes.mark(part.of(reader, from_the_first=from_the_first, source=reader.info.source)):
            frame = marked.frame
            if part.is_over(frame):
                return
            kept = frame.alpha if alpha else None
            pixels = frame.pixels if kept is None else fill_transparent(frame.pixels, kept)
            put(marked._replace(frame=VideoFrame(pixels.to(device), frame.time, kept)))
