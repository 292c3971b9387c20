"""Upscale a stream from the network or a device, frame by frame, until it ends or Ctrl-C is pressed.

INPUT is a network address (rtsp://camera/1, rtmp://, udp://0.0.0.0:5000, http://), a device (v4l2:/dev/video0), a file
or - for stdin. OUTPUT is a network address (udp:// and tcp:// carry MPEG-TS, rtmp:// carries FLV), a playlist
(out.m3u8), a file or - for stdout. Nothing is kept to go on from: a stream cannot be read again.
"""

from __future__ import annotations

import argparse
import signal
import sys
from threading import Event

from flashvsr.cli.upscale import add_model_arguments, chosen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr live`` takes, named as in `upscale_live` and its options."""
    add = parser.add_argument
    add("input", metavar="INPUT", help="network address, device such as v4l2:/dev/video0, file, or - for stdin")
    add("output", metavar="OUTPUT", help="network address, playlist (.m3u8), file, or - for stdout")
    add_model_arguments(parser.add_argument_group("model"))
    stream = parser.add_argument_group("stream").add_argument
    stream("--scale", type=float, default=4, help="enlargement, at least 1 (default: 4)")
    stream("--realtime", action="store_true", help="drop whole chunks of frames when slower than the stream")
    stream(
        "--patience",
        type=float,
        default=10,
        metavar="S",
        help="seconds without data after which the stream has ended; so long it is connected to again (default: 10)",
    )
    stream("--report-every", type=float, default=10, metavar="S", help="print latency and speed (default: 10 s)")
    stream("--codec", default="auto", metavar="NAME", help="video encoder by its FFmpeg name (default: auto)")
    stream("--crf", type=float, default=16, help="quality of the encoder, lower is better (default: 16)")
    stream("--format", default="auto", metavar="NAME", help="container (default: by protocol or ending)")
    stream(
        "--deinterlace",
        choices=["auto", "off", "field", "frame", "film"],
        default="auto",
        help="interlaced video, as for flashvsr upscale (default: auto)",
    )
    stream("--overwrite", action="store_true", help="replace an existing file")
    stream("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Follow one stream and return the exit status: 0 when it ended or was stopped by Ctrl-C, 1 for an error."""
    from flashvsr.upscale import EncodeOptions, LiveOptions, LoadOptions, explain, upscale_live
    from flashvsr.video import VideoError

    stop = Event()
    before = {number: signal.signal(number, _stopper(stop)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        upscale_live(
            args.input,
            args.output,
            model=args.model,
            loading=chosen(LoadOptions, args),
            scale=args.scale,
            seed=args.seed,
            encoding=EncodeOptions(args.codec, args.crf, args.format, deinterlace=args.deinterlace),
            live=chosen(LiveOptions, args),
            overwrite=args.overwrite,
            quiet=args.quiet,
            stop=stop,
        )
    except KeyboardInterrupt:
        print("flashvsr: interrupted twice: the output was not finished", file=sys.stderr)
        return 130
    except (VideoError, OSError, ValueError, MemoryError, RuntimeError) as error:
        message = explain(error)
        if message is None:
            raise
        print(f"flashvsr: {message}", file=sys.stderr)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _stopper(stop: Event) -> signal._HANDLER:
    """What the first Ctrl-C does, and the second."""

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("flashvsr: stopping; what has arrived is finished (Ctrl-C again to drop it)", file=sys.stderr)

    return handle
