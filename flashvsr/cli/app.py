"""A web page on this computer: drop videos or pictures on it, try a part, upscale, compare and download.

The page is for this computer only, unless --host says otherwise. Uploads and results are deleted when it ends. It needs
the extra app: pip install 'flashvsr[app]'
"""

from __future__ import annotations

import argparse
import signal
import sys
from importlib.util import find_spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr app`` takes."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, this computer only)")
    add("--port", type=int, default=7860, help="0 takes a free one (default: 7860)")
    add(
        "--model",
        action="append",
        metavar="PATH",
        help="nano, or a model folder; give it several times to offer a choice (default: nano)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add("--dtype", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="of the computation (default: auto)")
    add("--folder", metavar="PATH", help="where uploads and results are kept (default: that of temporary files)")
    add("--most-gb", type=float, default=4, metavar="GB", help="size of the largest upload (default: 4)")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C and return the exit status."""
    if find_spec("gradio") is None:
        print("flashvsr: the page needs Gradio: pip install 'flashvsr[app]'", file=sys.stderr)
        return 1
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is treated like Ctrl-C
    try:
        _serve(args)
    except KeyboardInterrupt:
        pass
    except (OSError, ValueError) as error:
        print(f"flashvsr: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _serve(args: argparse.Namespace) -> None:
    from flashvsr.app import Queue, WorkFolder
    from flashvsr.app.models import Models
    from flashvsr.app.server import LOCAL, create_app, listen, serve
    from flashvsr.upscale import LoadOptions

    if not args.most_gb > 0:
        raise ValueError(f"--most-gb is {args.most_gb:g}: expected a positive number")
    most_bytes = int(args.most_gb * 1e9)
    models = Models(args.model or ["nano"], LoadOptions(device=args.device, dtype=args.dtype))
    if args.host not in LOCAL:
        print(
            f"flashvsr: warning: whoever reaches {args.host} can use this page and see every file on it. There is no "
            "password. Use it in a network that you trust",
            file=sys.stderr,
        )
    with listen(args.host, args.port) as listener, WorkFolder(args.folder) as folder:
        for swept in folder.swept:
            print(f"flashvsr: deleted {swept}, left by a page that was killed", file=sys.stderr)
        queue = Queue(folder.files, models.get, most_bytes=most_bytes)
        try:
            app = create_app(folder, queue, models, host=args.host, most_bytes=most_bytes)
            host = f"[{args.host}]" if ":" in args.host else args.host
            port = listener.getsockname()[1]
            print(f"http://{host}:{port}  (Ctrl-C ends the page and deletes its files)", flush=True)
            serve(app, listener)
        finally:
            queue.close()
