"""Seconds per step of two recipes on one and on two GPUs of a machine, from random weights and made-up footage.

``nano/stage3_one_step`` trains with DDP, ``wan_1b/stage2_sparse_causal`` sharded with FSDP2, both at the sizes of the
recipe: what runs is ``flashvsr fit`` under torchrun, without validation, checkpoints and export. The batch per process
is that of the recipe, so that two GPUs train twice as many clips: the efficiency is half of how many clips per second
they train against one GPU. A step is a batch; of nano's, every fifth updates the generator. About three minutes.

    python benchmarks/scaling.py --out scaling.json
    python benchmarks/scaling.py --tiny --gpus 1 2   # the whole script at toy size, on any machine

Rows are printed and written as they come.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from flashvsr.cli.fit import RecipeCLI
from flashvsr.cli.recipes import find_recipe
from flashvsr.data.shard_writer import ShardRules, make_shards
from flashvsr.evaluate.lit import ValidationPictures
from flashvsr.models.class_paths import build, merge_arguments
from flashvsr.models.folder import Component, save_model_folder
from flashvsr.models.lit import ExportModelFolder
from flashvsr.video import VideoInfo, VideoWriter

NANO, WAN = "nano/stage3_one_step", "wan_1b/stage2_sparse_causal"
CASES: dict[str, dict[str, Any]] = {
    NANO: {"footage": (33, 576, 640), "photos": 8, "warm": 20, "window": 10, "windows": 10},
    WAN: {"footage": (96, 768, 1280), "photos": 0, "warm": 1, "window": 1, "windows": 3},
}
"""Frames, rows and columns of the footage; batches to warm up, batches of each window that is timed."""
TINY_CASE = {"footage": (17, 128, 128), "warm": 5, "window": 5, "windows": 2}
TINY = {
    NANO: {"data.frames": "9", "data.crop": "128", "data.epoch.pool": "2", "data.loader.memory.processes": "1"},
    WAN: {"data.frames": "17", "data.crop": "128", "model.dit.rank": "4"},
}
DIT, PROJECTION = "flashvsr.models.VideoDiT", "flashvsr.models.LRProjection"
Part = Mapping[str, Any]


def part_of(recipe: str, name: str) -> Part:
    """What a packaged recipe says of one network."""
    return yaml.safe_load(find_recipe(recipe).read_text())["model"]["init_args"][name]


def save_random(folder: Path, parts: Mapping[str, Part], device: str, **options: Any) -> None:
    """Write a model folder of networks with fresh weights."""
    made = {}
    for name, part in parts.items():
        arguments = part.get("init_args", {})
        with torch.device(device):
            made[name] = Component(part["class_path"], arguments, build(part["class_path"], arguments))
    save_model_folder(folder, made, **options)


def make_nano(work: Path, device: str, tiny: bool) -> None:
    """What the stages before ``nano/stage3_one_step`` leave, untrained."""
    runs = work / "runs/nano"
    encoder, decoder = part_of("nano/autoencoder", "encoder"), part_of("nano/decoder", "decoder")
    dit, projection = (part_of("nano/stage1_joint", name) for name in ("dit", "projection"))
    if tiny:
        encoder = encoder | {"init_args": {"channels": [8, 8, 8]}}
        decoder = decoder | {"init_args": decoder["init_args"] | {"channels": [8, 8, 8, 8]}}
        dit = dit | {"init_args": dit["init_args"] | {"dim": 64, "heads": 1, "layers": 1, "ffn_dim": 64}}
        projection = projection | {"init_args": {"hidden": [8, 16], "dim": 64}}
    sparse = part_of("nano/stage2_sparse_causal", "dit")["init_args"]["overrides"]
    both = {"projection": projection, "dit": dit}
    save_random(runs / "stage1", both, device, steps=20)
    save_random(runs / "stage2", both | {"dit": merge_arguments(dit, {"init_args": sparse})}, device, steps=20)
    save_random(runs / "autoencoder", {"encoder": encoder, "decoder": decoder}, device, color="none")


def make_wan(work: Path, device: str, tiny: bool) -> None:
    """What ``wan_1b/stage1_joint`` leaves, and the prompt, untrained."""
    attention = {"class_path": "flashvsr.attention.FullAttention"}
    parts: dict[str, Part] = {
        "projection": {"class_path": "flashvsr.models.lr_projection_1b"},
        "dit": {"class_path": "flashvsr.models.video_dit_1b", "init_args": {"attention": attention}},
        "vae": {"class_path": "flashvsr.models.wan_vae"},
    }
    prompt = torch.randn(1, 512, 4096)
    if tiny:
        sizes = {"dim": 32, "layers": 2, "heads": 2, "ffn_dim": 64, "text_dim": 16, "attention": attention}
        parts["dit"] = {"class_path": DIT, "init_args": sizes}
        parts["projection"] = {"class_path": PROJECTION, "init_args": {"hidden": [8, 8], "dim": 32}}
        parts["vae"] = {"class_path": "flashvsr.decoders.WanVAE", "init_args": {"base_width": 4}}
        prompt = torch.randn(1, 8, 16)
    prompt = prompt.bfloat16()
    (work / "models/FlashVSR-v1.1").mkdir(parents=True)
    torch.save(prompt, work / "models/FlashVSR-v1.1/posi_prompt.pth")
    save_random(work / "runs/wan_1b/stage1", parts, device, prompt=prompt, steps=50, dtype=torch.bfloat16)


def make_footage(work: Path, frames: int, rows: int, columns: int, photos: int) -> None:
    """Shards of two videos and some photographs: smooth noise, which moves."""
    source = work / "footage"
    source.mkdir()
    info = VideoInfo(columns, rows, Fraction(25), Fraction(1, 90000))
    for number in range(2 + photos):
        noise = torch.rand(1, 3, rows // 16, columns // 16, generator=torch.Generator().manual_seed(number))
        picture = torch.nn.functional.interpolate(noise, (rows, columns), mode="bilinear")[0]
        pixels = (picture * 255).to(torch.uint8)
        if number >= 2:
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(source / f"photo{number}.png")
            continue
        with VideoWriter(source / f"video{number}.mp4", width=columns, height=rows, info=info) as writer:
            for frame in range(frames):
                writer.write(pixels.roll(3 * frame, 2), Fraction(frame, 25))
    make_shards([source], work / "shards", ShardRules(max_mib=64))


class Clock(Callback):
    """Writes seconds per batch of every window, and the peak of memory, as they come.

    Args:
        case: Of :data:`CASES`.
        file: JSON, of this process.
    """

    def __init__(self, case: Mapping[str, Any], file: Path) -> None:
        self.case, self.file = case, file
        self.done, self.since, self.windows = 0, 0.0, list[float]()

    def on_train_batch_end(self, *unused: Any) -> None:
        """Take the time at the end of a window, when the device has done all of it."""
        self.done += 1
        timed = self.done - self.case["warm"]
        if timed < 0 or timed % self.case["window"]:
            return
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if timed:
            self.windows.append((now - self.since) / self.case["window"])
            peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
            self.file.write_text(json.dumps({"windows": self.windows, "peak_gib": peak}))
        self.since = now


def train(recipe: str, tiny: bool, out: Path) -> int:
    """One process of a training, in the folder that holds what the recipe needs."""
    case = CASES[recipe] | (TINY_CASE if tiny else {})
    world, rank = int(os.environ["WORLD_SIZE"]), os.environ["RANK"]
    said = {
        "data.train": "shards/*.tar",
        "data.val": "null",
        "trainer.num_nodes": "1",
        "trainer.devices": str(world),
        "trainer.max_epochs": "1",
        "trainer.limit_train_batches": str(case["warm"] + case["window"] * case["windows"]),
        "trainer.limit_val_batches": "0",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.logger.init_args.name": f"on_{world}",
    }
    if recipe == WAN:
        said["trainer.strategy.init_args.data_parallel_size"] = str(world)
    elif world > 1:
        said["trainer.strategy"] = "ddp_find_unused_parameters_true"
    if not torch.cuda.is_available():
        said["trainer.accelerator"] = "cpu"
    said |= (TINY[recipe] | {"data.loader.workers": "1"}) if tiny else {}
    cli = RecipeCLI("fit", ["-c", recipe, *(f"--{key}={value}" for key, value in said.items())])
    left_out = (ModelCheckpoint, ExportModelFolder, ValidationPictures)
    trainer: Any = cli.trainer
    trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, left_out)]
    trainer.callbacks.append(Clock(case, out.with_suffix(f".{rank}.json")))
    cli.start()
    return 0


def measure(recipe: str, gpus: int, options: argparse.Namespace, work: Path, seconds: float) -> dict[str, Any]:
    """Train on so many GPUs, in processes that are ended when their time is up; what went wrong becomes a row."""
    row: dict[str, Any] = {"recipe": recipe, "gpus": gpus, "strategy": "FSDP2" if recipe == WAN else "DDP"}
    out = work / f"on_{gpus}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}"]
    command += [str(Path(__file__).resolve()), "--train", recipe, "--out", str(out)] + ["--tiny"] * options.tiny
    start = time.perf_counter()
    with (work / f"on_{gpus}.log").open("w+") as log:
        environment = {"OMP_NUM_THREADS": "4", **os.environ}
        run = subprocess.Popen(
            command, cwd=work, env=environment, stdout=log, stderr=log, start_new_session=True, text=True
        )
        try:
            status = run.wait(timeout=max(seconds, 1))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            status = "ended when its time was up"
        log.seek(0)
        said = log.read()
    row["seconds_with_start"] = time.perf_counter() - start
    found = [json.loads(file.read_text()) for file in sorted(work.glob(f"on_{gpus}.*.json"))]
    if status:
        row["error"] = f"status {status}"
        print(said[-3000:], file=sys.stderr, flush=True)
    if len(found) == gpus:
        windows = found[0]["windows"]
        row |= {
            "seconds_per_step": statistics.median(windows),
            "seconds_of_windows": windows,
            "clips_per_step": gpus * yaml.safe_load(find_recipe(recipe).read_text())["data"]["init_args"]["batch_size"],
            "peak_gib": None if found[0]["peak_gib"] is None else max(one["peak_gib"] for one in found),
        }
        row["clips_per_second"] = row["clips_per_step"] / row["seconds_per_step"]
    return row


def add_efficiency(rows: list[dict[str, Any]]) -> None:
    """Clips per second of each row, against as many times those of one GPU."""
    alone = {row["recipe"]: row for row in rows if row["gpus"] == 1 and "clips_per_second" in row}
    for row in rows:
        if "clips_per_second" in row and row["recipe"] in alone:
            row["efficiency"] = row["clips_per_second"] / row["gpus"] / alone[row["recipe"]]["clips_per_second"]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows for people."""
    lines = ["| recipe | GPUs | s / step | clips / s | efficiency | peak GiB a GPU |", "|---|---|---|---|---|---|"]
    for row in rows:
        if "clips_per_second" not in row:
            lines.append(f"| {row['recipe']} | {row['gpus']} | failed: {row['error']} ||||")
            continue
        efficiency = f"{100 * row['efficiency']:.0f} %" if "efficiency" in row else "-"
        peak = "-" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
        lines.append(
            f"| {row['recipe']}, {row['strategy']} | {row['gpus']} | {row['seconds_per_step']:.3f} "
            f"| {row['clips_per_second']:.2f} | {efficiency} | {peak} |"
        )
    return "\n".join(lines)


def about(options: argparse.Namespace) -> dict[str, Any]:
    """When, on what, and with which versions."""
    cuda = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "devices": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())] or ["cpu"],
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else None,
        "lightning": lightning.__version__,
        "tiny": options.tiny,
    }


def main() -> int:
    """Measure, print, write JSON; 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--gpus", nargs="+", type=int, default=[1, 2], help="processes, in the order they are measured")
    parser.add_argument("--seconds", type=float, default=600, help="after which what runs is ended and the rest left")
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--train", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train(options.train, options.tiny, options.out)
    end = time.perf_counter() + options.seconds
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for recipe in options.recipes:
            work = Path(folder, recipe)
            work.mkdir(parents=True)
            case = CASES[recipe] | (TINY_CASE if options.tiny else {})
            make_footage(work, *case["footage"], case["photos"])
            (make_wan if recipe == WAN else make_nano)(work, device, options.tiny)
            if device == "cuda":
                torch.cuda.empty_cache()
            for gpus in options.gpus:
                rows.append(measure(recipe, gpus, options, work, end - time.perf_counter()))
                add_efficiency(rows)
                print(table(rows[-1:]).splitlines()[-1], flush=True)
                if options.out:
                    options.out.write_text(json.dumps(about(options) | {"rows": rows}, indent=1) + "\n")
    made = about(options)
    print(f"{len(made['devices'])} x {made['devices'][0]}, torch {made['torch']}, NCCL {made['nccl']}\n{table(rows)}")
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
