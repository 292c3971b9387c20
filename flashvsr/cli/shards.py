"""Write WebDataset shards from folders of videos and images, index shards, or look into them.

A shard is a tar of samples: a picture (mp4, mkv, webm; jpg, png, webp) and a json beside it. `flashvsr shards make`
shrinks, cuts and encodes; `flashvsr shards index` writes what shards hold into one file, which a training from URLs
needs; `flashvsr shards show` counts what is in there and names what is broken.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flashvsr.data.shard_writer import ShardRules
    from flashvsr.data.tar_samples import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``flashvsr shards make``, ``index`` and ``show``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = actions.add_parser("make", help="write shards", description="Write shards from folders and files.")
    add = make.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="folder (searched recursively) or file")
    add("--out", required=True, metavar="DIR", help="folder to make")
    add("--video-short-side", type=int, metavar="N", help="shrink videos to at most N pixels on the short side")
    add("--image-short-side", type=int, metavar="N", help="shrink images likewise")
    add(
        "--downscale",
        dest="shrink",
        type=float,
        default=1.0,
        metavar="F",
        help="shrink everything by F at least; 2 makes compressed footage sharp (default: 1)",
    )
    add(
        "--downscale-list",
        metavar="TSV",
        help="lines of file name, tab, factor: shrink these files by that factor at least",
    )
    add("--min-short-side", type=int, default=0, metavar="N", help="leave out what ends up smaller (default: 0)")
    add("--clip-seconds", type=float, metavar="S", help="cut videos into clips of about S seconds (default: whole)")
    add("--max-seconds", type=float, metavar="S", help="take the first S seconds of every video (default: all)")
    add("--crf", type=float, default=14, help="quality of H.264, lower is better (default: 14)")
    add("--image-quality", type=int, default=92, metavar="Q", help="quality of WebP, 1 to 100 (default: 92)")
    add("--max-mib", type=float, default=16, metavar="M", help="size of one shard (default: 16)")
    add("--total-mib", type=float, metavar="M", help="stop with an error when all together exceed M (default: never)")
    add("--overwrite", action="store_true", help="replace the shards in DIR")
    index = actions.add_parser(
        "index",
        help="write what shards hold into one file",
        description="Read the headers of shards, not their pictures, and write what they hold into one file. Put it as "
        "index.json beside shards at URLs: a training begins with it and reads no shard before it needs a sample.",
    )
    index.add_argument("shards", nargs="+", metavar="SHARDS", help="folder, path, glob, {000..007} pattern or URL")
    index.add_argument("--out", metavar="FILE", help="file to write (default: index.json beside local shards)")
    index.add_argument("--threads", type=int, default=16, metavar="N", help="shards read at once (default: 16)")
    index.add_argument("--overwrite", action="store_true", help="replace the file")
    show = actions.add_parser("show", help="inspect shards", description="Count samples, name what is broken.")
    show.add_argument("shards", nargs="+", metavar="SHARDS", help="path, glob, {000..007} pattern or URL")
    show.add_argument("--index", metavar="FILE", help="index of shards at URLs (default: index.json beside them)")
    show.add_argument("--decode", action="store_true", help="decode the first frame of every sample too (slower)")


def run(args: argparse.Namespace) -> int:
    """Make, index or show; the exit status is 1 for an error and for broken samples."""
    from flashvsr.data.tar_samples import ShardError

    try:
        return {"make": _make, "index": _index, "show": _show}[args.action](args)
    except (ShardError, OSError, ValueError) as error:
        print(f"flashvsr: {error}", file=sys.stderr)
        return 1


def _make(args: argparse.Namespace) -> int:
    from flashvsr.data.shard_writer import make_shards

    shards = make_shards(args.sources, args.out, _rules(args), overwrite=args.overwrite, on_progress=print)
    print(f"{len(shards)} shards, {sum(shard.stat().st_size for shard in shards) / 2**20:.1f} MiB in {args.out}")
    return 0


def _index(args: argparse.Namespace) -> int:
    from flashvsr.data.remote import is_remote
    from flashvsr.data.shard_index import INDEX, write_index
    from flashvsr.data.shards import expand_shards

    if args.threads < 1:
        raise ValueError(f"--threads {args.threads}: expected 1 or more")
    shards = expand_shards(args.shards)
    target = args.out
    if target is None:
        folders = {Path(shard).parent for shard in shards if not is_remote(shard)}
        if len(folders) != 1 or any(map(is_remote, shards)):
            raise ValueError(f"name the file to write: --out {INDEX}\nonly the shards of one local folder have a place")
        target = folders.pop() / INDEX
    write_index(shards, target, threads=args.threads, overwrite=args.overwrite)
    print(f"{target}: index of {len(shards)} shards")
    return 0


def _rules(args: argparse.Namespace) -> ShardRules:
    from flashvsr.data.shard_writer import ShardRules

    names = vars(ShardRules()).keys() - {"downscale"}
    return ShardRules(
        downscale=_read_factors(args.downscale_list) if args.downscale_list else {},
        **{name: getattr(args, name) for name in names},
    )


def _read_factors(path: str) -> dict[str, float]:
    factors = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        name, _, factor = line.partition("\t")
        try:
            factors[name] = float(factor)
        except ValueError:
            raise ValueError(f"{path}, line {number}: {line!r}\nexpected a file name, a tab and a number") from None
        if factors[name] < 1:
            raise ValueError(f"{path}, line {number}: factor {factor} enlarges\nexpected 1 or more")
    return factors


def _show(args: argparse.Namespace) -> int:
    from flashvsr.data.clips import probe
    from flashvsr.data.settings import RemoteOptions
    from flashvsr.data.shards import ShardIndex

    index = ShardIndex(args.shards, RemoteOptions(index=args.index))
    problems = list(index.problems)
    for shard in index.shards:
        print(f"{shard}: {sum(entry.shard == shard for entry in index.entries)} samples")
    for kind in ("video", "image"):
        entries = [entry for entry in index.entries if entry.kind == kind]
        if args.decode:
            problems += [problem for entry in entries if (problem := probe(index.read(entry), entry)) is not None]
        if entries:
            print(_summary(kind, entries))
    for problem in problems:
        print(problem)
    return 1 if problems or not index.entries else 0


def _summary(kind: str, entries: list[Entry]) -> str:
    sides = sorted(min(entry.width, entry.height) for entry in entries)
    mib = sum(entry.size for entry in entries) / 2**20
    each = f"{mib / len(entries):.3g} MiB each"
    text = f"{kind}: {len(entries)}, {mib:.1f} MiB, {each}, short side {sides[0]} to {sides[-1]}"
    if kind == "image":
        return text
    frames = sorted(entry.frames for entry in entries)
    seconds = sum(entry.frames / entry.fps for entry in entries if entry.fps)
    return f"{text}, {sum(frames)} frames, {seconds:.1f} s, {frames[0]} to {frames[-1]} frames a clip"
