"""The full-size model within a limit of GPU memory and without one: peak memory, frames per second, the same frames.

Every case is a process of its own that loads the model from a folder, so that its peak is that of a fresh process,
loading included. Frames are compared by their digest, over the first chunks. Exit status 1 if a peak exceeds its limit
or frames differ.

    python benchmarks/gpu_memory.py --out gpu_memory.json
    python benchmarks/gpu_memory.py --limits 768x1408=3.1 1152x2048=4 2176x3840=9.5     # about the least that works
    python benchmarks/gpu_memory.py --model FOLDER    # weights from this folder; without it random ones, written for it
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from several_gpus import digest_frames, versions

from flashvsr.bench import bench
from flashvsr.models import FlashVSR, load
from flashvsr.models.class_paths import build
from flashvsr.models.folder import Component, save_model_folder

LIMITS = {"768x1408": 6.0, "1152x2048": 8.0, "2176x3840": 12.0}
CHUNKS = {"768x1408": 30, "1152x2048": 16, "2176x3840": 8}
COMPARED = 6
GROWING = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""What the command line sets, too."""

PARTS = {
    "projection": "flashvsr.models.lr_projection_1b",
    "dit": "flashvsr.models.video_dit_1b",
    "decoder": "flashvsr.models.tiny_conditional_decoder_1b",
}


def write_random_model(folder: Path) -> None:
    """A model folder of the full size in bf16, 3.4 GB, with random weights."""
    torch.manual_seed(0)
    components = {name: Component(path, {}, build(path, {})) for name, path in PARTS.items()}
    save_model_folder(folder, components, prompt=torch.randn(1, 512, 4096), dtype=torch.bfloat16)


def measure(model: str, size: str, limit: float | None, chunks: int) -> dict[str, Any]:
    """One case, in this process."""
    height, width = (int(part) for part in size.split("x"))
    system = load(model, device="cuda", dtype="bf16", gpu_gib=limit)
    if not isinstance(system, FlashVSR):
        raise ValueError(f"{model} has no transformer")
    result = bench(system, height=height, width=width, chunks=chunks)
    print(result.table(), flush=True)
    digest = digest_frames(system, height, width, COMPARED)
    peak = max(result.peak_gib, torch.cuda.max_memory_reserved() / 2**30)
    return {"size": size, "gpu_gib": limit, "peak_reserved_gib": peak, "digest": digest, **asdict(result)}


def run_cases(model: str, limits: dict[str, float], chunks: int | None, out: Path | None) -> list[dict[str, Any]]:
    """Every size without a limit and with its own, in processes of their own; those that fail are left out."""
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "case.json"
        for size, limit in limits.items():
            for asked in (None, limit):
                count = chunks or CHUNKS.get(size, 12)
                case = ["--case", size, "none" if asked is None else f"{asked:g}", "--chunks", str(count)]
                command = [sys.executable, __file__, "--model", model, *case, "--out", str(part)]
                if subprocess.run(command, env={**GROWING, **os.environ}, check=False).returncode:
                    continue
                cases.append(json.loads(part.read_text()))
                if out:
                    out.write_text(json.dumps({**versions(), "cases": cases}, indent=1) + "\n")
    return cases


def summarize(cases: list[dict[str, Any]], limits: dict[str, float]) -> bool:
    """Print a table; whether all cases ran, kept their limits and gave the same frames."""
    print(
        "\n| size | --gpu-gib | peak GiB | frames/s | of the unlimited | frames | how |\n|---|---|---|---|---|---|---|"
    )
    good = len(cases) == 2 * len(limits)
    plain = {case["size"]: case for case in cases if case["gpu_gib"] is None}
    for case in cases:
        other, limit = plain.get(case["size"], case), case["gpu_gib"]
        good &= other["digest"] == case["digest"] and (limit is None or case["peak_reserved_gib"] <= limit)
        share = case["frames_per_second"] / other["frames_per_second"]
        print(
            f"| {case['size']} | {'none' if limit is None else limit} | {case['peak_reserved_gib']:.2f} "
            f"| {case['frames_per_second']:.2f} | {share:.2f} | {case['digest']} | {case['paths'].get('memory', '')} |"
        )
    return good


def main() -> int:
    """Run every case and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FOLDER", help="a model folder (default: random weights, written for it)")
    parser.add_argument("--limits", nargs="+", metavar="HxW=GIB", help="sizes with their limits (default: the three)")
    parser.add_argument("--chunks", type=int, help="steady chunks to time (default: by size)")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--case", nargs=2, metavar=("SIZE", "GIB"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        size, limit = arguments.case
        case = measure(arguments.model, size, None if limit == "none" else float(limit), arguments.chunks)
        arguments.out.write_text(json.dumps(case))
        return 0
    given = [text.split("=") for text in arguments.limits or ()]
    limits = {size: float(gib) for size, gib in given} or LIMITS
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = str(Path(folder) / "model")
            write_random_model(Path(model))
        cases = run_cases(model, limits, arguments.chunks, arguments.out)
    return 0 if summarize(cases, limits) else 1


if __name__ == "__main__":
    sys.exit(main())
