"""Step time, throughput and memory of the training stages at full size, from random weights, on one GPU.

Each case runs in a fresh process under a Lightning Trainer, so what is measured is what ``flashvsr fit`` runs: bf16
weights, activation checkpointing, LoRA on the transformer (``--lora 0`` trains all of it), AdamW. About four minutes.

    python benchmarks/training.py --out training.json
    python benchmarks/training.py --tiny                     # the whole script at toy size, on any machine

Model FLOPs of a step count two operations per multiply-add. A forward pass of the transformer over N tokens with P
attended (query, key) pairs takes ``2 N linear_weights + layers (4 dim P + 4 dim N prompt_tokens)``, of the LR
projection two per weight and position. A backward pass takes one forward for the activations and one for the
weights; frozen weights take none, adapters their own. Work that checkpointing repeats is not counted, nor are the
VAE (its time is a column of its own, and taken off before the utilisation) and the tiny decoder (whose time is in
the step).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from flashvsr.attention import FullAttention, LocalSparseAttention
from flashvsr.decoders import TinyConditionalDecoder, WanVAE
from flashvsr.distill import OneStepObjective, ReconstructionLoss
from flashvsr.distill.lit import JointStage, OneStepOptimization, OneStepStage, SparseCausalStage
from flashvsr.models import FlowSchedule, LRProjection, VideoDiT

CASES = ("joint", "sparse", "dense", "one_step")
PEAK_TFLOPS = 989.0
"""Dense bf16 matrix products of an H100 or H200, without sparsity."""
ADAPTED = r"blocks\.\d+\.((self_attn|cross_attn)\.[qkvo]|ffn\.[02])"
SIZES = {
    False: {"frames": 89, "height": 768, "width": 1280, "dim": 1536, "layers": 30, "heads": 12, "ffn": 8960,
            "text": 4096, "prompt": 512, "hidden": (2048, 3072), "vae": 96, "decoder": (512, 256, 128, 128)},
    True: {"frames": 17, "height": 128, "width": 128, "dim": 32, "layers": 2, "heads": 2, "ffn": 64,
           "text": 16, "prompt": 8, "hidden": (8, 8), "vae": 4, "decoder": (8, 8, 4, 4)},
}  # fmt: skip


class Case:
    """One stage to be measured: its networks, batch and count of operations."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options, self.size = name, options, SIZES[options.tiny]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pairs: list[Tensor] = []  # kept (query, key) pairs of each call of a sparse layer, heads averaged

    def dit(self, attention: str) -> VideoDiT:
        """A transformer with ``"sparse"`` or ``"full"`` attention, and adapters unless all of it is trained."""
        size, sparse = self.size, attention == "sparse"
        layer: Any = (
            partial(LocalSparseAttention, sparse_ratio=1.5, impl=self.options.impl) if sparse else FullAttention
        )
        dit = VideoDiT(
            size["dim"], size["layers"], size["heads"], size["ffn"],
            text_dim=size["text"], attention=layer, activation_checkpointing=True,
        )  # fmt: skip
        for block in dit.blocks if sparse else ():
            block.self_attn.selection.register_forward_hook(self._count_pairs)
        if self.options.lora:
            from peft import LoraConfig, inject_adapter_in_model

            rank = 4 if self.options.tiny else self.options.lora
            inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=ADAPTED), dit)
        return dit

    def stage(self) -> Any:
        """The LightningModule, of random weights."""
        projection = partial(LRProjection, hidden=self.size["hidden"], dim=self.size["dim"])
        prompt = torch.randn(1, self.size["prompt"], self.size["text"])
        adamw = partial(torch.optim.AdamW, lr=1e-5, weight_decay=0.01)
        schedule, vae = FlowSchedule(), WanVAE(self.size["vae"])
        if self.name == "joint":
            return JointStage(self.dit("full"), projection(), vae, schedule, adamw, prompt=prompt)
        if self.name in ("sparse", "dense"):
            dit = self.dit("sparse" if self.name == "sparse" else "full")
            return SparseCausalStage(
                dit, projection(), vae, schedule, adamw, prompt=prompt, random_history=self.name == "sparse"
            )
        dits, projections = (self.dit("sparse"), self.dit("full")), (projection(), projection())
        reconstruction = ReconstructionLoss("mse", perceptual="fft")
        return OneStepStage(
            dits[0],
            projections[0],
            TinyConditionalDecoder(channels=self.size["decoder"]),
            OneStepObjective(schedule, reconstruction, decode_crop=self.options.decode_crop),
            OneStepOptimization(adamw, adamw, generator_every=2),
            score=dits[1],
            score_projection=projections[1],
            prompt=prompt,
        )

    def batch(self) -> dict[str, Any]:
        """A batch of noise, on the device."""
        size, made = self.size, {}
        for kind, count, frames in (("video", 1, size["frames"]), ("image", self.options.images, 1)):
            hr = torch.rand(count, 3, frames, size["height"], size["width"], device=self.device) * 2 - 1
            made[kind] = {"hr": hr, "lr": hr * 0.9, "seed": torch.arange(count, device=self.device)}
        if self.name == "joint" and self.options.images:
            return {**made["video"], "image": made["image"]}
        return made["video"]

    def tokens(self) -> list[int]:
        """Of each sample of a step."""
        size = self.size
        frame = size["height"] // 16 * (size["width"] // 16)
        images = self.options.images if self.name == "joint" else 0
        return [(size["frames"] - 1) // 4 * frame, *[frame] * images]

    def flops(self, stage: Any, generator: bool) -> float:
        """Model FLOPs of one step, see the top of this file; `generator` for a step that updates the generator."""
        tokens = self.tokens()
        full = sum(count**2 for count in tokens)
        sparse = float(torch.stack(self.pairs).double().mean()) if self.pairs else 0.0
        if self.name in ("joint", "dense"):
            return self._network(stage.dit, stage.projection, full, passes=(1, 1))
        if self.name == "sparse":
            return self._network(stage.dit, stage.projection, sparse, passes=(1, 1))
        fake = (stage.fake_score, stage.fake_projection, full)
        flops = self._network(*fake, passes=(1, 1)) + self._network(
            stage.dit, stage.projection, sparse, passes=(1, int(generator))
        )
        if generator:  # both scores, without gradient
            flops += 2 * self._network(*fake, passes=(1, 0))
        return flops

    def _network(self, dit: nn.Module, projection: nn.Module, pairs: float, passes: tuple[int, int]) -> float:
        size, tokens = self.size, sum(self.tokens())
        forward, backward = passes
        attention = size["layers"] * size["dim"] * 4.0 * (pairs + tokens * size["prompt"])
        flops = attention * (forward + 2 * backward)
        for name, parameter in dit.named_parameters():
            if parameter.ndim >= 2 and not any(part in name for part in ("modulation", "time_", "text_")):
                if "cross_attn.k" in name or "cross_attn.v" in name:
                    continue  # applied to the prompt, once
                flops += 2.0 * parameter.numel() * tokens * (forward + backward * (1 + parameter.requires_grad))
        first, second, linear = (projection.conv1.weight, projection.conv2.weight, projection.linear_layers[0].weight)
        weights = 2 * first.numel() + second.numel() + linear.numel()  # two outputs of the first per latent step
        return flops + 2.0 * weights * tokens * (forward + 2 * backward)

    def _count_pairs(self, module: nn.Module, inputs: Any, mask: Tensor) -> None:
        self.pairs.append(mask.sum() / mask.shape[1] * 128.0**2)


class Clock(Callback):
    """Seconds of each step, and of the VAE's encoder in it."""

    def __init__(self, stage: Any) -> None:
        self.steps: list[tuple[float, float]] = []
        self.encoding = 0.0
        if stage.vae is not None:
            self.plain, stage.vae.encode = stage.vae.encode, self._encode

    def on_train_batch_start(self, *unused: Any) -> None:
        """Start the clock."""
        self.encoding, self.start = 0.0, _now()

    def on_train_batch_end(self, *unused: Any) -> None:
        """Stop it: the optimizer has been stepped."""
        self.steps.append((_now() - self.start, self.encoding))

    def _encode(self, frames: Tensor) -> Any:
        start = _now()
        encoded = self.plain(frames)
        self.encoding += _now() - start
        return encoded


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run one case in this process; a row for each kind of step."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    case = Case(name, options)
    with case.device:
        stage = case.stage()
    clock = Clock(stage)
    trainer = Trainer(
        accelerator="gpu" if case.device.type == "cuda" else "cpu",
        devices=1,
        precision="bf16-true",
        max_epochs=1,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(stage, DataLoader([case.batch()] * (1 + options.steps), batch_size=None))
    peak = torch.cuda.max_memory_allocated() / 2**30 if case.device.type == "cuda" else None
    measured = list(enumerate(clock.steps))[1:]
    kinds = {name: measured}
    if name == "one_step":
        kinds = {
            "one_step: fake score": [step for step in measured if step[0] % 2],
            "one_step: generator and fake score": [step for step in measured if not step[0] % 2],
        }
    rows = []
    for kind, steps in kinds.items():
        if not steps:
            continue
        seconds, encoding = (sum(step[1][index] for step in steps) / len(steps) for index in (0, 1))
        flops = case.flops(stage, generator="generator" in kind)
        rows.append(
            {
                "stage": kind,
                "seconds": seconds,
                "encode_seconds": encoding,
                "tokens_per_second": sum(case.tokens()) / seconds,
                "teraflops": flops / 1e12,
                "utilisation": flops / 1e12 / (seconds - encoding) / PEAK_TFLOPS,
                "peak_gib": peak,
                "steps": len(steps),
            }
        )
    return rows


def _run(name: str, arguments: list[str]) -> list[dict[str, Any]]:
    """Run one case in a process of its own; a failure becomes a row."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--stages", name, "--in-process", "--out", str(out), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return json.loads(out.read_text())["rows"]
    print(done.stderr[-3000:], file=sys.stderr)
    return [{"stage": name, "error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "killed"}]


def _print(rows: list[dict[str, Any]]) -> None:
    print("| stage | s / step | of it VAE encoder | tokens / s | model TFLOP | utilisation | peak GiB |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        if "error" in row:
            print(f"| {row['stage']} | failed: {row['error']} |||||||")
            continue
        peak = "-" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
        print(
            f"| {row['stage']} | {row['seconds']:.2f} | {row['encode_seconds']:.2f} | {row['tokens_per_second']:.0f} "
            f"| {row['teraflops']:.1f} | {100 * row['utilisation']:.1f} % | {peak} |",
            flush=True,
        )


def main() -> int:
    """Measure, print a table, write JSON; 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=2, help="measured after one step to warm up")
    parser.add_argument("--lora", type=int, default=384, help="rank of the adapters; 0 trains all weights")
    parser.add_argument("--images", type=int, default=1, help="images packed with the video of the joint stage")
    parser.add_argument("--impl", default="auto", help="of block-sparse attention")
    parser.add_argument("--decode-crop", type=int, help="side of the decoded square in latent cells; all by default")
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    passed = [f"--{key}={getattr(options, key)}" for key in ("steps", "lora", "images", "impl")]
    passed += [f"--decode-crop={options.decode_crop}"] if options.decode_crop else []
    passed += ["--tiny"] if options.tiny else []
    rows: list[dict[str, Any]] = []
    for name in options.stages:
        rows += measure(name, options) if options.in_process else _run(name, passed)
        if not options.in_process:
            print(f"{name}: done", file=sys.stderr, flush=True)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    if options.out:
        shown = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        made = {"device": device, "torch": torch.__version__, "options": shown, "rows": rows}
        options.out.write_text(json.dumps(made, indent=1) + "\n")
    if not options.in_process:
        print(f"{device}, torch {torch.__version__}, {SIZES[options.tiny]['frames']} frames, bf16, LoRA {options.lora}")
        _print(rows)
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
