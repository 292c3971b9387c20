"""Upscale a video: decode, upscale and encode as one stream, in memory that does not grow with the clip.

INPUT and OUTPUT are video files, pictures, image folders, printf patterns (frames/%06d.png) or - for stdin and stdout.
INPUT may also be example:, a clip rendered on the spot. A run keeps OUTPUT.partial/ until it is done; killed, it goes
on with --resume.

Lists: several INPUTs, or a folder with videos or separate pictures, go into OUTPUT, a folder, each file on its own. A
folder of pictures that are numbered without a gap is one video; --glob '*' makes it a list. Exit status: 0 all done, 1
nothing done, 2 the arguments make no sense, 3 some files of a list failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from dataclasses import fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from flashvsr.cli.upscale_events import Events

Options = TypeVar("Options", bound=Any)

SOME_FAILED = 3
"""Exit status when some files of a list are done and others failed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr upscale`` takes, named as in `upscale_file`, `LoadOptions` and `EncodeOptions`."""
    add = parser.add_argument
    add(
        "input",
        nargs="+",
        metavar="INPUT",
        help="video or picture file, folder, printf pattern, - for stdin, or example:; several for a list",
    )
    add("output", metavar="OUTPUT", help="video or picture file, folder, printf pattern, or - for stdout")
    add_model_arguments(parser.add_argument_group("model"))
    _add_clip_arguments(parser.add_argument_group("part and size"))
    _add_video_arguments(parser.add_argument_group("video"))
    _add_list_arguments(parser.add_argument_group("list"))
    _add_run_arguments(parser.add_argument_group("run"))


def add_model_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare which model is used, and how; the names are those of `LoadOptions`."""
    add = group.add_argument
    add(
        "--model",
        default="nano",
        metavar="PATH",
        help="nano, or a model folder: ours or an official download (default: nano)",
    )
    add("--version", choices=["v1", "v1.1"], help="release of an official folder whose hash is unknown")
    add("--prompt", metavar="PATH", help="prompt tensor of an official folder (posi_prompt.pth), if it lies elsewhere")
    add("--seed", type=int, default=0, help="of the noise; the same seed gives the same video (default: 0)")
    add("--decoder", choices=["tiny", "full"], default="tiny", help="full: the slower Wan2.1 VAE (default: tiny)")
    add(
        "--color",
        choices=["auto", "adain", "wavelet", "none"],
        default="auto",
        help="colour correction (auto: the model's)",
    )
    add(
        "--detail",
        type=float,
        default=1.0,
        metavar="D",
        help="0: only what the input shows, 1: all that the diffusion part adds (default: 1)",
    )
    add(
        "--device",
        default="auto",
        help="auto, cpu, cuda, cuda:1, ...; several GPUs: cuda:0,cuda:1 or cuda:* (default: auto)",
    )
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
    add("--fp8", action="store_true", help="linear layers in 8-bit floats: faster, less exact")
    add(
        "--fast",
        action="store_true",
        help="--fp8, attention in 8 bits and --sparse-ratio 1.5: for H100, RTX 40 and newer GPUs",
    )
    add(
        "--cache-gib",
        type=float,
        metavar="GIB",
        help="GPU memory for keys and values, the rest goes to the host's: same frames (default: 24; inf for all)",
    )
    add(
        "--gpu-gib",
        type=float,
        metavar="GIB",
        help="fit into so much of the GPU, or say how much it takes; what does not fit goes to the host's memory: same "
        "frames",
    )
    add("--trust-code", action="store_true", help="run code outside flashvsr that the model folder names")


def _add_clip_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--scale", type=float, default=4, help="enlargement, at least 1 (default: 4)")
    add("--height", type=int, metavar="N", help="rows of the output in place of a scale, such as 1080")
    add("--width", type=int, metavar="N", help="columns of the output; with --height: the largest that fits into both")
    add(
        "--cuts",
        choices=["auto", "off"],
        default="auto",
        help="auto: start the model anew at scene cuts (default: auto)",
    )
    add("--start", type=_seconds, metavar="TIME", help="begin at this time of the input: 90.5, 1:30.5 or 0:01:30.5")
    add("--end", type=_seconds, metavar="TIME", help="end before this time of the input")


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
    add(
        "--deinterlace",
        choices=["auto", "off", "field", "frame", "film"],
        default="auto",
        help="interlaced video: a frame of each field, one of each frame, or undo 3:2 pulldown of film (default: auto)",
    )


def _add_list_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--glob", metavar="PATTERN", help="files of a folder, each on its own: '*.mp4', or '**/*' for its folders, too")
    add("--skip-done", action="store_true", help="leave out what is complete and was made with these settings")


def _add_run_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--overwrite", action="store_true", help="replace OUTPUT, and drop what an earlier run left in OUTPUT.partial")
    resume = group.add_mutually_exclusive_group()
    resume.add_argument("--resume", action="store_true", help="go on from OUTPUT.partial, with the same frames")
    resume.add_argument(
        "--no-resume", dest="snapshots", action="store_false", help="keep no snapshots; a killed run starts over"
    )
    add("--segment-seconds", type=float, default=60, metavar="S", help="video between two snapshots (default: 60)")
    add(
        "--segments",
        metavar="N|K/N",
        help="split the video at scene cuts and upscale N segments at once, on the devices of --device in turn; K/N:"
        " only the Kth, on one of several machines that share OUTPUT.partial",
    )
    shown = group.add_mutually_exclusive_group()
    shown.add_argument("--quiet", action="store_true", help="print nothing but errors")
    shown.add_argument("--json", action="store_true", help="print progress and errors on stdout, a JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Upscale one file or a list and return the exit status."""
    from flashvsr.cli.upscale_events import Events

    if args.json and args.output == "-":
        print("flashvsr: --json writes to stdout, where the video goes: name an output file", file=sys.stderr)
        return 2
    events = Events() if args.json else None
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is treated like Ctrl-C
    try:
        status = _run(args, events)
    except KeyboardInterrupt as interruption:
        _complain("interrupted", interruption, events)
        status = 130
    finally:
        signal.signal(signal.SIGTERM, before)
    if events is not None:
        events.end(status)
    return status


def _run(args: argparse.Namespace, events: Events | None) -> int:
    from flashvsr.upscale import ClipOptions, EncodeOptions, LoadOptions, find_files, upscale_file
    from flashvsr.video import VideoError, is_address, is_device

    options = {
        "model": args.model,
        "clip": chosen(ClipOptions, args),
        "loading": chosen(LoadOptions, args),
        "scale": args.scale,
        "seed": args.seed,
        "encoding": chosen(EncodeOptions, args),
        "overwrite": args.overwrite,
        "resume": args.resume,
        "segment_seconds": args.segment_seconds if args.snapshots else None,
        "segments": args.segments,
        "quiet": args.quiet or args.json,
    }
    if events is not None:
        options["progress"] = events.progress
    try:
        if stream := next((name for name in (*args.input, args.output) if is_address(name) or is_device(name)), None):
            raise ValueError(f"{stream} is a stream, which has no end to resume from: use flashvsr live")
        files = find_files(args.input, args.output, glob=args.glob, format=args.format)
        if files is not None and args.segments is not None:
            raise ValueError("--segments is for one video; this is a list of files")
        if files is not None:
            if events is not None:
                events.files = len(files)
            return _run_list(args, options, events)
        if args.skip_done:
            raise ValueError("--skip-done is for a list of files; this is one video")
        if events is not None:
            events.start(args.input[0], args.output)
        result = upscale_file(args.input[0], args.output, **options)
        if events is not None:
            events.done(result)
    except (VideoError, OSError, ValueError, MemoryError, RuntimeError) as error:
        message = _message(error)
        if message is None:
            raise
        _complain(message, error, events)
        return 1
    return 0


def _run_list(args: argparse.Namespace, options: dict[str, Any], events: Events | None) -> int:
    from flashvsr.upscale import summary, upscale_files

    if events is not None:
        options |= {"on_start": events.start_pair, "on_end": events.end_pair}
    options.pop("segments")
    outcomes = upscale_files(args.input, args.output, glob=args.glob, skip_done=args.skip_done, **options)
    good = [outcome for outcome in outcomes if outcome.status in ("done", "skipped")]
    failed = len(good) < len(outcomes)
    for line in summary(outcomes) if events is None else ():
        if not args.quiet or line.startswith(("failed", "left")):
            print(line, file=sys.stderr)
    return (SOME_FAILED if good else 1) if failed else 0


def chosen(options: type[Options], args: argparse.Namespace) -> Options:
    """The options of a dataclass that were given on the command line."""
    return options(**{field.name: getattr(args, field.name) for field in fields(options)})


def _seconds(text: str) -> Fraction:
    """A time in seconds, from 90.5, 1:30.5 or 0:01:30.5."""
    parts = text.split(":")
    try:
        seconds = sum((Fraction(part) * 60**power for power, part in enumerate(reversed(parts))), Fraction(0))
    except (ValueError, ZeroDivisionError):
        seconds = Fraction(-1)
    if len(parts) > 3 or seconds < 0 or any(part.startswith("-") for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not a time: expected one such as 90.5, 1:30.5 or 0:01:30.5")
    return seconds


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
    from flashvsr.kernels import ImplUnavailableError
    from flashvsr.upscale import explain

    return f"{error}; --impl auto takes one that can" if isinstance(error, ImplUnavailableError) else explain(error)


def _complain(message: str, error: BaseException, events: Events | None) -> None:
    notes = getattr(error, "__notes__", [])
    if events is not None:
        events.error("\n".join([message, *notes]))
        return
    for line in (f"flashvsr: {message}", *notes):
        print(line, file=sys.stderr)
