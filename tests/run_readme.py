"""README's usages, one after the other in an empty folder: ``python run_readme.py CHECKOUT SITE``.

Python blocks run as they stand, and so do command lines; training gets options that make it small. flashvsr comes from
SITE, where a wheel was installed; of the checkout only README is read.
"""

import re
import shlex
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import torch
import yaml

import flashvsr
from flashvsr.cli import main
from flashvsr.models.class_paths import build
from flashvsr.models.folder import Component, save_model_folder
from flashvsr.video import VideoInfo, VideoWriter

CHECKOUT, SITE = sys.argv[1:]
README = (Path(CHECKOUT) / "README.md").read_text()
SMALL = {
    "trainer.accelerator": "cpu",
    "trainer.precision": "32-true",
    "trainer.max_steps": "1",
    "trainer.limit_val_batches": "0",
    "trainer.enable_progress_bar": "false",
    "model.scheduler.init_args.warmup": "0",
    "data.photos.fraction": "0",
    "data.batch_size": "1",
    "data.frames": "9",
    "data.crop": "128",
    "data.epoch.batches": "2",
    "data.epoch.echo": "1",
    "data.epoch.pool": "1",
    "data.loader.workers": "0",
}


def block(language: str, section: str) -> str:
    """The one fenced block of that language in a section of README."""
    part = README[README.index(f"## {section}\n") :]
    (code,) = re.findall(rf"^```{language}\n(.*?)^```$", part[: part.index("\n## ", 4)], re.M | re.S)
    return code


def run_python(section: str) -> dict:
    """Run the Python block of a section as it stands, and return its names."""
    names: dict = {}
    exec(compile(block("python", section), section, "exec"), names)
    return names


def run_line(line: str, **more: str) -> None:
    """Run a command line, its training only as far as shows that it works."""
    program, *words = shlex.split(line, comments=True)
    if program == "pip":
        assert words == ["install", ".[train]"], line  # which was done, from the wheel
        return
    assert program == "flashvsr", line
    if words[0] == "fit":
        words += [f"--{key}={value}" for key, value in (SMALL | more).items()]
    assert main(words) == 0, line


def import_layers() -> None:
    """Use it from Python, and import a layer."""
    assert run_python("Use it from Python")["frames"].shape == (16, 3, 256, 384)
    assert run_python("Import a layer")["out"].shape == (1, 12, 4 * 6 * 128, 128)


def launch_a_recipe() -> None:
    """Make shards of footage, train a stage, and continue it."""
    for folder in ("footage", "footage_val"):
        Path(folder).mkdir()
        info = VideoInfo(128, 128, Fraction(25), Fraction(1, 90000))
        with VideoWriter(Path(folder, "clip.mp4"), width=128, height=128, info=info) as writer:
            for number in range(12):
                writer.write(torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8), Fraction(number, 25))
    toy = {"model.vae.encoder_channels": "[8,8,8]", "model.vae.channels": "[8,8,8,8]"}
    for line in block("bash", "Launch a recipe").splitlines():
        run_line(line, **toy, **({"trainer.max_steps": "2"} if "--ckpt_path last" in line else {}))
    assert torch.load("runs/nano/checkpoints/vae/last.ckpt", weights_only=True)["global_step"] == 2
    assert {path.name for path in Path("runs/nano/vae").iterdir()} == {"model.yaml", "vae.safetensors"}


def swap_a_variant() -> None:
    """Build a variant by hand, and train one from a file on top of a recipe."""
    attention = run_python("Swap a variant")["dit"].blocks[0].self_attn
    assert attention.selection.window_hw == (5, 5)
    attention = {"class_path": "flashvsr.attention.FullAttention"}
    networks = {
        "projection": ("flashvsr.models.LRProjection", {"hidden": [8, 12], "dim": 64}),
        "dit": (
            "flashvsr.models.VideoDiT",
            {"dim": 64, "layers": 1, "heads": 1, "ffn_dim": 64, "text_dim": None, "attention": attention},
        ),
        "encoder": ("flashvsr.decoders.ConditionalEncoder", {"channels": [8, 8, 8]}),
        "decoder": ("flashvsr.decoders.TinyConditionalDecoder", {"channels": [8, 8, 8, 8], "residual": True}),
    }
    parts = {name: Component(*part, build(*part)) for name, part in networks.items()}
    save_model_folder("runs/nano/stage1", parts)  # what the stages before leave, at toy size
    recipe = block("yaml", "Swap a variant")
    name, line = re.match(r"# (\w+\.yaml): (.+)", recipe).groups()
    Path(name).write_text(recipe)
    run_line(line, **{"data.loader.memory.processes": "0"})
    made = yaml.safe_load(Path("runs/nano/stage2_wider/model.yaml").read_text())["components"]["dit"]["init_args"]
    assert made["attention"]["init_args"]["window_hw"] == [5, 5]
    assert made["attention"]["init_args"]["boundary"] == "preserved"  # not named in the file: it stays


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    assert flashvsr.__file__.startswith(SITE), flashvsr.__file__
    assert CHECKOUT not in sys.path
    import_layers()
    launch_a_recipe()
    swap_a_variant()
