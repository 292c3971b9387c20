"""Time a model on random frames, part by part: steady chunks of 8 frames, the first frames, peak memory, floors."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr bench`` takes."""
    add = parser.add_argument
    add("--model", default="nano", help="nano, or a model folder: ours or an official download (default: nano)")
    add("--version", choices=["v1", "v1.1"], help="release of an official folder whose hash is unknown")
    add("--prompt", metavar="PATH", help="prompt tensor of an official folder (posi_prompt.pth), if it lies elsewhere")
    add("--size", default="768x1408", metavar="HxW", help="output size, rows first (default: 768x1408)")
    add("--chunks", type=int, default=10, help="steady chunks to time (default: 10)")
    add("--decoder", choices=["tiny", "full"], default="tiny", help="full: the slower Wan2.1 VAE (default: tiny)")
    add("--impl", default="auto", help="attention implementation; flashvsr info lists them (default: auto)")
    add("--sparse-ratio", type=float, metavar="R", help="density of attention, lower is faster (default: the model's)")
    add("--fp8", action="store_true", help="linear layers in 8-bit floats: faster, less exact")
    add("--fast", action="store_true", help="--fp8, attention in 8 bits and --sparse-ratio 1.5, on a GPU that can")
    add(
        "--cache-gib",
        type=float,
        metavar="GIB",
        help="of the GPU for keys and values, the rest is the host's (default: 24)",
    )
    add("--gpu-gib", type=float, metavar="GIB", help="fit into so much of the GPU, or say how much it takes")
    add("--trust-code", action="store_true", help="run code outside flashvsr that the folder names")
    add(
        "--device",
        default="auto",
        help="auto, cpu, cuda, cuda:1, ...; several GPUs: cuda:0,cuda:1 or cuda:* (default: auto)",
    )
    add("--dtype", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="of the computation (default: auto)")
    add("--warm", action="store_true", help="only compile the kernels for --size, which are kept on disk")
    add("--json", metavar="PATH", type=Path, help="write the figures here, too")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and return the exit status."""
    try:
        height, width = (int(part) for part in args.size.split("x"))
    except ValueError:
        print(f"flashvsr: --size is rows x columns, such as 768x1408; got {args.size!r}", file=sys.stderr)
        return 2
    from flashvsr.bench import bench, warm
    from flashvsr.models.loading import load

    names = (
        "version",
        "prompt",
        "decoder",
        "impl",
        "sparse_ratio",
        "fp8",
        "fast",
        "cache_gib",
        "gpu_gib",
        "device",
        "dtype",
        "trust_code",
    )
    try:
        system = load(args.model, **{name: getattr(args, name) for name in names})
        if args.warm:
            seconds = warm(system, height=height, width=width)
            print(f"kernels for {args.size} are compiled and kept: the first frames came after {seconds:.1f} s")
            return 0
        result = bench(system, height=height, width=width, chunks=args.chunks)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"flashvsr: {error}", file=sys.stderr)
        return 1
    print(result.table())
    if args.json:
        args.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return 0
