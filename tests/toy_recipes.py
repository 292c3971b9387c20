"""What makes a shipped recipe train in a moment: short runs, toy networks, made-up shards and earlier stages."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import flashvsr
from flashvsr.data.shard_writer import ShardRules, make_shards
from flashvsr.models.class_paths import build
from flashvsr.models.folder import Component, save_model_folder
from flashvsr.video import VideoInfo, VideoWriter

RECIPES = Path(flashvsr.__file__).parents[1] / "recipes"
TRAINED = sorted(f"{family}/{file.stem}" for family in ("nano", "wan_1b") for file in (RECIPES / family).glob("*.yaml"))
"""Every shipped recipe that trains by itself; the ablations go on top of those of nano."""
SMALL = {
    "data.frames": "9",
    "data.crop": "128",
    "data.batch_size": "1",
    "data.epoch.batches": "2",
    "data.loader.workers": "0",
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.max_steps": "2",
    "trainer.limit_val_batches": "1",
    "trainer.check_val_every_n_epoch": "1",
    "trainer.log_every_n_steps": "1",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
}
WAN = {
    "trainer.precision": "bf16-mixed",  # as shipped: the VAE is in bf16
    "trainer.num_nodes": "1",
    "trainer.devices": "1",
}
SHARDED = WAN | {"trainer.strategy.data_parallel_size": "1", "model.dit.rank": "2", "model.validation_steps": "2"}
FULL = {"class_path": "flashvsr.attention.FullAttention"}
SPARSE = {"class_path": "flashvsr.attention.LocalSparseAttention", "init_args": {"history": 1}}
DIT = {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 32, "text_dim": 16}
PROJECTION = {"hidden": [8, 8], "dim": 32}
CHANNELS = [8, 8, 8, 8]


def _said(key: str, class_path: str, init_args: dict[str, Any]) -> dict[str, str]:
    return {key: class_path} | {f"{key}.{name}": str(value) for name, value in init_args.items()}


TOY: dict[str, dict[str, str]] = {
    "nano/vae": {"model.vae.encoder_channels": "[8,8,8]", "model.vae.channels": "[8,8,8,8]"},
    "nano/autoencoder": {"model.encoder.channels": "[8,8,8]", "data.loader.memory.processes": "0"},
    "nano/decoder": {"model.decoder.channels": "[8,8,8,8]"},
    "nano/stage1_joint": {
        "model.projection.hidden": "[8,16]",
        "model.projection.dim": "64",
        "model.dit.dim": "64",
        "model.dit.heads": "1",
        "model.dit.layers": "1",
        "model.dit.ffn_dim": "64",
        "model.validation_steps": "2",
        "data.loader.memory.processes": "0",
    },
    "nano/stage2_sparse_causal": {"model.validation_steps": "2", "data.loader.memory.processes": "0"},
    "nano/stage3_one_step": {
        "model.optimization.generator_every": "1",  # three steps in every batch: with a discriminator
        "data.epoch.batches": "1",  # so that six steps are an epoch, which ends with the validation
        "data.loader.memory.processes": "0",
    },
    "wan_1b/vae": WAN | {"model.reconstruction.perceptual": "fft"},  # LPIPS would be downloaded
    "wan_1b/decoder": WAN
    | _said("model.decoder", "flashvsr.decoders.TinyConditionalDecoder", {"channels": CHANNELS})
    | {"model.reconstruction.perceptual": "fft"},
    "wan_1b/stage1_joint": SHARDED
    | _said("model.projection", "flashvsr.models.LRProjection", PROJECTION)
    | _said("model.dit.module", "flashvsr.models.VideoDiT", DIT | {"attention": "flashvsr.attention.FullAttention"}),
    "wan_1b/stage2_sparse_causal": SHARDED,
    "wan_1b/stage3_one_step": WAN
    | {
        "trainer.strategy.data_parallel_size": "1",
        "model.dit.rank": "2",
        "model.score.rank": "2",
        "model.objective.reconstruction.perceptual": "fft",
        "model.optimization.generator_every": "2",
    },
}
"""Of every recipe: arguments that make its networks small, for one process."""


def toy_arguments(recipe: str, shards: Path, **more: str) -> list[str]:
    """Arguments of the command line that train a recipe at toy size; nano's with echo and a pool."""
    said = SMALL | {"data.train": f"{shards}/*.tar", "data.val": f"{shards}/*.tar"} | TOY[recipe]
    if recipe.startswith("nano/"):
        scheduler = "optimization.generator_scheduler" if recipe == "nano/stage3_one_step" else "scheduler"
        said |= {"data.epoch.echo": "2", "data.epoch.pool": "2", f"model.{scheduler}.init_args.warmup": "1"}
        if steps := more.pop("scheduled_steps", None):
            said[f"model.{scheduler}.init_args.steps"] = steps
    more.pop("scheduled_steps", None)
    file = RECIPES / f"{recipe}.yaml"
    return ["fit", "-c", str(file), *(f"--{key}={value}" for key, value in (said | more).items())]


def on_two_processes(recipe: str, ddp: str = "ddp") -> dict[str, str]:
    """Arguments that train a recipe on two processes: with the strategy that it has, nano's with DDP."""
    if recipe.startswith("nano/"):
        return {
            "trainer.devices": "2",
            "trainer.strategy": f"{ddp}_find_unused_parameters_true" if "stage3" in recipe else ddp,
        }
    sharded = "trainer.strategy.data_parallel_size" in TOY[recipe]
    return {"trainer.devices": "2"} | ({"trainer.strategy.data_parallel_size": "2"} if sharded else {})


def make_toy_shards(folder: Path) -> Path:
    """Two short videos and three photographs, made up."""
    source = folder / "source"
    source.mkdir()
    info = VideoInfo(192, 160, Fraction(25), Fraction(1, 90000))
    for number in range(5):
        noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        picture = (torch.nn.functional.interpolate(noise, (160, 192), mode="bilinear")[0] * 255).to(torch.uint8)
        if number < 2:
            with VideoWriter(source / f"video{number}.mp4", width=192, height=160, info=info) as writer:
                for frame in range(12):
                    writer.write(picture.roll(3 * frame, 2), Fraction(frame, 25))
        else:
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(source / f"photo{number}.png")
    make_shards([source], folder / "shards", ShardRules())
    return folder / "shards"


def make_wan_stages(folder: Path) -> None:
    """The published download and what the recipes of wan_1b leave, untrained and at toy size."""
    parts = {
        "projection": ("flashvsr.models.LRProjection", PROJECTION),
        "dit": ("flashvsr.models.VideoDiT", DIT | {"attention": FULL}),
        "vae": ("flashvsr.decoders.WanVAE", {"base_width": 4}),
        "decoder": ("flashvsr.decoders.TinyConditionalDecoder", {"channels": CHANNELS}),
    }
    made = {name: Component(path, said, build(path, said)) for name, (path, said) in parts.items()}
    path, said = parts["dit"][0], DIT | {"attention": SPARSE}
    sparse = made | {"dit": Component(path, said, build(path, said))}
    prompt = torch.randn(1, 8, 16).bfloat16()
    for name, components, steps in (
        ("models/FlashVSR-v1.1", sparse, 1), ("runs/wan_1b/stage1", made, 50),
        ("runs/wan_1b/stage2", sparse, 50), ("runs/wan_1b/decoder", {"decoder": made["decoder"]}, 1),
    ):  # fmt: skip
        save_model_folder(folder / name, components, prompt=prompt, steps=steps)
    torch.save(prompt, folder / "models/FlashVSR-v1.1/posi_prompt.pth")
