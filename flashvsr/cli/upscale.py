"""Upscale a video: decode, upscale and encode as one stream, in memory that does not grow with the clip.

INPUT and OUTPUT are video files, image folders, printf patterns (frames/%06d.png) or - for stdin and stdout. INPUT may
also be example:, a clip rendered on the spot. A run keeps OUTPUT.partial/ until it is done; killed, it goes on with
--resume.
"""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from dataclasses import fields
from fractions import Fraction
from typing import Any, TypeVar

Options = TypeVar("Options", bound=Any)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr upscale`` takes, named as in `upscale_file`, `LoadOptions` and `EncodeOptions`."""
    add = parser.add_argument
    add("input", metavar="INPUT", help="video file, image folder, printf pattern, - for stdin, or example:")
    add("output", metavar="OUTPUT", help="video file, image folder, printf pattern, or - for stdout")
    _add_model_arguments(parser.add_argument_group("model"))
    _add_video_arguments(parser.add_argument_group("video"))
    _add_run_arguments(parser.add_argument_group("run"))


def _add_model_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model",
        default="nano",
        metavar="PATH",
        help="nano, or a model folder: ours or an official download (default: nano)",
    )
    add("--version", choices=["v1", "v1.1"], help="release of an official folder whose hash is unknown")
    add("--prompt", metavar="PATH", help="prompt tensor of an official folder (posi_prompt.pth), if it lies elsewhere")
    add("--scale", type=float, default=4, help="enlargement, at least 1 (default: 4)")
    add("--seed", type=int, default=0, help="of the noise; the same seed gives the same video (default: 0)")
    add("--decoder", choices=["tiny", "full"], default="tiny", help="full: the slower Wan2.1 VAE (default: tiny)")
    add(
        "--color",
        choices=["auto", "adain", "wavelet", "none"],
        default="auto",
        help="colour correction (auto: the model's)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add(
        "--dtype",
        choices=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        help="of the computation (auto: bf16 where the device multiplies it, else fp16 on a GPU, fp32 on a CPU)",
    )
    add(
        "--impl",
        default="auto",
        metavar="NAME",
        help="attention implementation; flashvsr info lists them (default: auto)",
    )
    add("--sparse-ratio", type=float, metavar="R", help="density of attention, lower is faster (default: the model's)")
    add("--fp8", action="store_true", help="two thirds of the products in 8-bit floats: faster, less exact")
    add(
        "--cache-gib",
        type=float,
        metavar="GIB",
        help="GPU memory for keys and values, the rest goes to the host's: same frames (default: 24; inf for all)",
    )
    add("--trust-code", action="store_true", help="run code outside flashvsr that the model folder names")


def _add_video_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--codec",
        default="auto",
        metavar="NAME",
        help="video encoder by its FFmpeg name, such as libx265 (default: auto)",
    )
    add("--crf", type=float, default=16, help="quality of the encoder, lower is better (default: 16)")
    add(
        "--format",
        default="auto",
        metavar="NAME",
        help="container, such as mp4 or nut (default: by name; Matroska for a pipe)",
    )
    add(
        "--fps", type=_rate, metavar="RATE", help="frames per second of an input without timestamps, such as 24000/1001"
    )


def _add_run_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--overwrite", action="store_true", help="replace OUTPUT, and drop what an earlier run left in OUTPUT.partial")
    resume = group.add_mutually_exclusive_group()
    resume.add_argument("--resume", action="store_true", help="go on from OUTPUT.partial, with the same frames")
    resume.add_argument(
        "--no-resume", dest="snapshots", action="store_false", help="keep no snapshots; a killed run starts over"
    )
    add("--segment-seconds", type=float, default=60, metavar="S", help="video between two snapshots (default: 60)")
    add("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Upscale one file and return the exit status."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is treated like Ctrl-C
    try:
        return _run(args)
    except KeyboardInterrupt as interruption:
        _complain("interrupted", interruption)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(args: argparse.Namespace) -> int:
    from flashvsr.upscale import EncodeOptions, LoadOptions, upscale_file
    from flashvsr.video import VideoError

    try:
        upscale_file(
            args.input,
            args.output,
            model=args.model,
            loading=_chosen(LoadOptions, args),
            scale=args.scale,
            seed=args.seed,
            encoding=_chosen(EncodeOptions, args),
            overwrite=args.overwrite,
            resume=args.resume,
            segment_seconds=args.segment_seconds if args.snapshots else None,
            quiet=args.quiet,
        )
    except (VideoError, OSError, ValueError, MemoryError, RuntimeError) as error:
        message = _message(error)
        if message is None:
            raise
        _complain(message, error)
        return 1
    return 0


def _chosen(options: type[Options], args: argparse.Namespace) -> Options:
    """The options of a dataclass that were given on the command line."""
    return options(**{field.name: getattr(args, field.name) for field in fields(options)})


def _rate(text: str) -> Fraction | None:
    if text == "auto":
        return None
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if rate <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a rate: expected one such as 25 or 24000/1001")
    return rate


def _message(error: Exception) -> str | None:
    """The message of an expected error; None for a defect of the library, whose traceback is shown."""
    import torch

    from flashvsr.kernels import ImplUnavailableError

    # PyTorch has its own class for an exhausted GPU, and a plain RuntimeError for exhausted main memory.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        detail = f" ({reason})" if reason else ""
        options = "a smaller --scale, --decoder tiny, --dtype bf16, --cache-gib or another --device"
        return f"out of memory{detail}: try {options}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full: free some space, or write to another disk; --no-resume needs less"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: check that the folder is there and may be written"
    if isinstance(error, ImplUnavailableError):
        return f"{error}; --impl auto takes one that can"
    if type(error) is RuntimeError or isinstance(error, NotImplementedError | RecursionError):
        return None
    return str(error)


def _complain(message: str, error: BaseException) -> None:
    for line in (f"flashvsr: {message}", *getattr(error, "__notes__", [])):
        print(line, file=sys.stderr)
