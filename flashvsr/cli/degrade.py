"""Make a low-resolution video of a good one: a quarter of the size, with the blur, noise and compression of real video.

IN and OUT are video files, image folders, printf patterns (frames/%06d.png) or - for stdin and stdout; OUT may also be
one .png for one picture. What is random is drawn once from --seed for the whole file and drifts slowly, as in training;
all frames run through one open encoder after the other, so memory does not grow with the clip. Frames, times and sound
are kept.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from flashvsr.data import Degradation
    from flashvsr.upscale.target import Target
    from flashvsr.video import VideoInfo, VideoReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr degrade`` takes."""
    add = parser.add_argument
    add("input", metavar="IN", help="video file, picture, image folder, printf pattern, - for stdin, or example:")
    add("output", metavar="OUT", help="video file, .png, image folder, printf pattern, or - for stdout")
    add("--seed", type=int, required=True, help="of everything random; the same seed gives the same video")
    add(
        "--preset",
        choices=["realbasicvsr", "mild", "bicubic"],
        default="realbasicvsr",
        help="realbasicvsr: as in training; mild: decent consumer video; bicubic: only reduced (default: realbasicvsr)",
    )
    add("--codec", default="auto", metavar="NAME", help="video encoder of OUT by its FFmpeg name (default: auto)")
    add("--crf", type=float, default=2, help="quality of OUT, lower is better (default: 2, nearly lossless)")
    add("--format", default="auto", metavar="NAME", help="container of OUT, such as mp4 or nut (default: by name)")
    add("--overwrite", action="store_true", help="replace OUT")


def run(args: argparse.Namespace) -> int:
    """Degrade one file and return the exit status."""
    from flashvsr.video import VideoError

    try:
        frames = _degrade_file(args)
    except KeyboardInterrupt:
        print("flashvsr: interrupted, nothing was written", file=sys.stderr)
        return 130
    except (VideoError, OSError, ValueError) as error:
        print(f"flashvsr: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: {frames} frames, preset {args.preset}, seed {args.seed}", file=sys.stderr)
    return 0


def _degrade_file(args: argparse.Namespace) -> int:
    from flashvsr.data import Degradation
    from flashvsr.upscale.target import Target
    from flashvsr.video import VideoReader

    target = Target.parse(args.output, args.format)
    target.check(args.input, overwrite=args.overwrite)
    if args.preset == "bicubic":
        degradation = Degradation(clean_fraction=1)
    else:
        degradation = Degradation(args.preset)
    with VideoReader(args.input) as reader:
        frames = _degraded(reader, degradation, args.seed)
        if target.kind == "pipe":
            return _write("-", frames, reader, args)
        with TemporaryDirectory(prefix=f"{target.partial.name}.", dir=target.partial.parent) as folder:
            finished = _in_folder(Path(folder), target)
            if target.kind == "picture":
                count = _write_picture(finished, frames)
            else:
                count = _write(finished, frames, reader, args)
            target.place(finished if target.kind in ("file", "folder") else finished.parent, count)
    return count


def _in_folder(folder: Path, target: Target) -> Path:
    """Where to write before the result gets its name."""
    from flashvsr.video import image_name

    if target.is_images:
        images = folder / "images"
        images.mkdir()
        if target.kind == "picture":
            return images / image_name(target.image_pattern, 1)
        return images / target.image_pattern if target.kind == "pattern" else images
    return folder / f"video{target.suffix}"


def _degraded(reader: VideoReader, degradation: Degradation, seed: int) -> Iterator[tuple[Tensor, Fraction]]:
    """Degraded frames, each with the time of the frame it comes from."""
    import torch

    times: deque[Fraction] = deque()

    def pixels() -> Iterator[Tensor]:
        for frame in reader:
            times.append(frame.time)
            deep = frame.pixels.dtype != torch.uint8
            yield (frame.pixels * 255).round().to(torch.uint8) if deep else frame.pixels

    for low in degradation.stream(pixels(), seed):
        yield low, times.popleft()


def _write(
    target: str | Path, frames: Iterator[tuple[Tensor, Fraction]], reader: VideoReader, args: argparse.Namespace
) -> int:
    from flashvsr.data.degrade.resize import low_size
    from flashvsr.video import VideoWriter

    height, width = low_size(reader.info.height, reader.info.width)
    info: VideoInfo = replace(reader.info, bit_depth=8)
    count = 0
    with VideoWriter(
        target,
        width=width,
        height=height,
        info=info,
        codec=args.codec,
        crf=args.crf,
        format=args.format,
        copy_tracks_from=reader,
    ) as writer:
        for count, (low, time) in enumerate(frames, 1):  # noqa: B007
            writer.write(low, time)
    for warning in [*reader.warnings, *writer.warnings]:
        print(f"flashvsr: {warning}", file=sys.stderr)
    return count


def _write_picture(target: Path, frames: Iterator[tuple[Tensor, Fraction]]) -> int:
    from PIL import Image

    low, _ = next(frames)
    if next(frames, None) is not None:
        raise ValueError("the input has more than one frame, a .png holds one: name a video, a folder or %05d.png")
    Image.fromarray(low.permute(1, 2, 0).contiguous().numpy()).save(target)
    return 1
