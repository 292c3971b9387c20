"""Measure models on video with a known answer: degrade clips, upscale them, compare; bicubic and Lanczos beside them.

Prints a table of means. With --out, writes the table (results.md), every figure (results.csv, results.json) and
pictures: LR, bicubic, models and HR side by side. The same command gives the same digits.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashvsr.evaluate import Clip, Sample

METRICS = ("psnr", "ssim", "ms_ssim", "vmaf", "warping", "lpips")
RESULTS = "results.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr evaluate`` takes."""
    data = parser.add_argument_group("ground truth")
    add = data.add_argument
    add("--data", nargs="+", required=True, metavar="PATH", help="videos, photographs, and folders of them")
    add("--frames", type=int, default=32, help="frames of each video, from its start (default: 32)")
    add("--short-side", type=int, default=540, help="shrink the ground truth to this; 0 for any size (default: 540)")
    add(
        "--downscale",
        type=float,
        default=1.5,
        help="shrink it at least by this factor, for footage is compressed; 1 if it is not (default: 1.5)",
    )
    add("--crop", type=int, nargs=2, metavar=("H", "W"), help="then cut this from its middle")
    add(
        "--degrade",
        choices=["realbasicvsr", "mild", "bicubic"],
        default="realbasicvsr",
        help="how the LR video is made; bicubic only shrinks (default: realbasicvsr)",
    )
    add("--seeds", type=int, nargs="+", default=[0], help="of degradation and noise; each clip runs once for each")
    model = parser.add_argument_group("models")
    add = model.add_argument
    add(
        "--model",
        nargs="*",
        default=["nano"],
        metavar="PATH",
        help="nano, and model folders; one with a decoder alone sees zero latents; none for baselines (default: nano)",
    )
    add("--steps", type=int, help="sampling steps, on the whole clip (default: the model's own)")
    add(
        "--ablate",
        nargs="+",
        choices=["velocity", "latents"],
        default=[],
        help="run each model also with zero velocity, and with zero latents into its decoder",
    )
    add("--decoder", choices=["auto", "tiny", "full"], default="auto", help="auto: tiny if the folder has it, else VAE")
    add("--color", choices=["auto", "adain", "wavelet", "none"], default="auto", help="auto: what the model wants")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...; of models and metrics (default: auto)")
    add("--dtype", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="of the models (default: auto)")
    add("--impl", default="auto", metavar="NAME", help="attention implementation (default: auto)")
    result = parser.add_argument_group("results")
    add = result.add_argument
    add("--metrics", nargs="+", choices=METRICS, default=list(METRICS), help="what to measure (default: all)")
    add("--out", type=Path, metavar="FOLDER", help="write tables and pictures there")
    add("--overwrite", action="store_true", help="replace results that are there already")
    add(
        "--part",
        action="append",
        default=[],
        metavar="CLIP:FRAME:TOP,LEFT,SIZE",
        help="also a strip of this part, into strips/; several of one frame become one picture",
    )
    add("--zoom", type=int, default=2, help="of parts in pictures (default: 2)")
    add("--video", action="store_true", help="also side-by-side videos")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, and return the exit status."""
    from flashvsr.cli.upscale import NO_IMPL
    from flashvsr.data import VideoError

    try:
        with _results_folder(args.out, args.overwrite) as folder:
            _evaluate(args, folder)
    except (VideoError, ValueError, OSError) as error:
        print(f"flashvsr: {error}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not NO_IMPL.match(str(error)):
            raise
        print(f"flashvsr: {error}; --impl auto takes one that can", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("flashvsr: interrupted, nothing is written", file=sys.stderr)
        return 130
    return 0


def _evaluate(args: argparse.Namespace, folder: Path | None) -> None:
    from flashvsr.cli.evaluate_models import model_methods
    from flashvsr.evaluate import (
        BASELINES,
        clip_table,
        evaluate,
        find_clips,
        mean_table,
        missing_metrics,
        read_clip,
        to_csv,
        to_json,
    )
    from flashvsr.models.checkpoints import choose_device

    files = find_clips(args.data)
    parts = _parts(args.part, files)
    missing = missing_metrics(args.metrics)
    methods = {**BASELINES, **model_methods(args)}
    degrade = None
    if args.degrade != "bicubic":
        from flashvsr.data.degrade import Degradation

        degrade = Degradation(args.degrade)
    size: dict[str, Any] = {"frames": args.frames, "short_side": args.short_side or None, "downscale": args.downscale}
    crop = tuple(args.crop) if args.crop else None

    start = time.perf_counter()

    def seen(sample: Sample) -> None:
        print(f"{sample.clip.name}, seed {sample.seed}: at {time.perf_counter() - start:.1f} s", file=sys.stderr)
        if folder is not None:
            _pictures(folder, sample, parts.get(sample.clip.name, {}), args)

    results = evaluate(
        [partial(read_clip, file, name, **size, crop=crop) for name, file in files.items()],
        methods,
        degrade,
        seeds=args.seeds,
        metrics=[metric for metric in args.metrics if metric not in missing],
        device=choose_device(args.device),
        seen=seen,
        workers=min(8, os.cpu_count() or 1),
    )
    results.missing |= missing
    table = mean_table(results, args.metrics)
    print(table, end="")
    if folder is not None:
        kept = {key: value for key, value in vars(args).items() if key not in ("command", "out", "overwrite")}
        (folder / "results.md").write_text(f"{table}\n{clip_table(results, args.metrics)}")
        (folder / "results.csv").write_text(to_csv(results, args.metrics))
        (folder / RESULTS).write_text(to_json(results, kept))


@contextmanager
def _results_folder(out: Path | None, overwrite: bool) -> Iterator[Path | None]:
    """A folder that becomes `out` when all went well, and is gone otherwise.

    Raises:
        FileExistsError: If `out` exists, unless it may be overwritten and holds results.
    """
    if out is None:
        yield None
        return
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another folder, or pass --overwrite")
    if out.exists() and not (out / RESULTS).is_file():
        raise FileExistsError(f"{out} exists and holds no results of an evaluation: --overwrite does not replace it")
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        new = work / "new"
        new.mkdir(mode=0o755)
        yield new
        if out.exists():
            out.rename(work / "old")
        new.rename(out)
    finally:
        shutil.rmtree(work)


def _parts(said: list[str], files: Mapping[str, Path]) -> dict[str, dict[int, list[Any]]]:
    """Parts to show, by clip and frame.

    Raises:
        ValueError: If one is not understood, or names no clip.
    """
    from flashvsr.evaluate import Box

    parts: dict[str, dict[int, list[Any]]] = {}
    for text in said:
        name, *rest = text.rsplit(":", 2)
        if len(rest) != 2 or not rest[0].isdecimal():
            raise ValueError(f"--part is CLIP:FRAME:TOP,LEFT,SIZE, got {text!r}")
        if name not in files:
            raise ValueError(f"--part {text}: there is no clip {name!r}; there are {', '.join(files)}")
        parts.setdefault(name, {}).setdefault(int(rest[0]), []).append(Box.parse(rest[1]))
    return parts


def _pictures(folder: Path, sample: Sample, parts: Mapping[int, list[Any]], args: argparse.Namespace) -> None:
    """Write what can be seen of one clip."""
    from flashvsr.evaluate import liveliest, strip

    clip, truth = sample.clip, sample.clip.frames
    shown = {name: frames for name, frames in sample.outputs.items() if name != "lanczos"}
    columns = {"LR": sample.lr, **shown, "HR": truth}
    name = clip.name if len(args.seeds) == 1 else f"{clip.name}_seed{sample.seed}"

    def save(kind: str, name: str, frame: int, boxes: list[Any], **options: Any) -> None:
        if frame >= len(truth):
            raise ValueError(f"{clip.name} has {len(truth)} frames, there is no frame {frame} to show")
        (folder / kind).mkdir(exist_ok=True)
        still = {label: frames[frame] for label, frames in columns.items()}
        strip(still, boxes, zoom=args.zoom, **options).save(folder / kind / f"{name}.png")

    middle = len(truth) // 2
    save("pictures", name, middle, liveliest(truth[middle], 128, 3), overview=True)
    for frame, boxes in parts.items():
        save("strips", f"{name}_{frame}", frame, boxes)
    if args.video and clip.info is not None:
        _video(folder / "videos", name, clip, columns)


def _video(folder: Path, name: str, clip: Clip, columns: Mapping[str, Any]) -> None:
    from dataclasses import replace
    from fractions import Fraction

    from flashvsr.data import VideoWriter
    from flashvsr.evaluate import side_by_side

    assert clip.info is not None
    frames, rate = side_by_side(columns), clip.info.frame_rate or Fraction(25)
    height, width = frames.shape[-2:]
    info = replace(clip.info, width=width, height=height, time_base=1 / rate)
    folder.mkdir(exist_ok=True)
    with VideoWriter(folder / f"{name}.mp4", width=width, height=height, info=info) as writer:
        for number, frame in enumerate(frames):
            writer.write(frame, number / rate)
