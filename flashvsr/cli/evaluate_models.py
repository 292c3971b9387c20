"""Model folders of every stage as methods of ``flashvsr evaluate``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flashvsr.attention.choice import IMPLS
from flashvsr.decoders.color import ColorMatch
from flashvsr.evaluate import WholeClip, without_latents, without_velocity
from flashvsr.evaluate.run import Method
from flashvsr.evaluate.whole_clip import ShuffledLatents, scaled_latents
from flashvsr.models import FlashVSR, VideoDiT
from flashvsr.models.folder import ModelFolder
from flashvsr.models.loading import DECODERS, adjust_attention, choose_device, choose_dtype, find_model
from flashvsr.models.official import is_official_folder
from flashvsr.models.sampler import FlowSchedule
from flashvsr.models.system import check_detail
from flashvsr.streaming import Geometry
from flashvsr.streaming.noise import chunk_noise


def model_methods(args: argparse.Namespace) -> dict[str, Method]:
    """Load the models that were asked for, each with its ablations.

    Args:
        args: Of ``flashvsr evaluate``.

    Returns:
        Methods by the name they have in the table.

    Raises:
        FileNotFoundError: If a model is not there.
        ValueError: If a model is not usable, an option is unknown, or two models have one name.
    """
    if args.impl not in ("auto", *IMPLS):
        raise ValueError(f"impl is one of auto, {', '.join(IMPLS)}; got {args.impl!r}")
    if args.steps is not None and args.steps < 1:
        raise ValueError(f"--steps is at least 1, got {args.steps}")
    for detail in args.detail:
        check_detail(detail)
    methods: dict[str, Method] = {}
    official = [model for model in args.model if is_official_folder(Path(model))]
    published = {"version": args.version, "prompt": args.prompt}
    if not official and any(published.values()):
        raise ValueError("--version and --prompt are for published folders, and none of the models is one")
    for model in args.model:
        folder = find_model(model, **(published if model in official else {}))
        name = model if not Path(model).is_dir() else Path(model).resolve().name
        for label, method in _with_ablations(name, folder, args).items():
            if label in methods:
                raise ValueError(f"two models would be called {label!r} in the table; rename the folder {model}")
            methods[label] = method
    if (args.ablate or args.detail) and not any(isinstance(method, _Ablation) for method in methods.values()):
        raise ValueError("--ablate and --detail are for models with a diffusion part, and none of these has one")
    return methods


@dataclass(frozen=True)
class _Ablation:
    """A method that is another one with something taken away."""

    run: Callable[..., Tensor]
    compared_with: str
    needs_truth: bool = False
    needs_other: bool = False

    def __call__(self, *arguments: Any) -> Tensor:
        return self.run(*arguments)


def _with_ablations(name: str, folder: ModelFolder, args: argparse.Namespace) -> dict[str, Method]:
    build = _of_truth if args.latents == "truth" else _of_model
    label, method, decoder, dit = build(name, folder, args)
    methods: dict[str, Method] = {label: method}
    if args.latents != "truth" and dit is None:
        return methods
    needs_truth = bool(getattr(method, "needs_truth", False))

    def add(what: str, run: Callable[..., Tensor], **needs: bool) -> None:
        methods[f"{label}, {what}"] = _Ablation(run, label, **needs)

    if "velocity" in args.ablate and dit is not None:
        add("zero velocity", _changed(method, without_velocity, dit))
    if "latents" in args.ablate:
        add("zero latents", _changed(method, without_latents, decoder), needs_truth=needs_truth)
    if "shuffled" in args.ablate:
        add("latents of another clip", ShuffledLatents(method, decoder), needs_other=True)
    if "seed" in args.ablate:
        add("another seed", lambda lr, seed: method(lr, seed + 1))
    for detail in args.detail:
        run = _changed(method, partial(scaled_latents, factor=detail), decoder)
        add(f"detail {detail:g}", run, needs_truth=needs_truth)
    return methods


def _of_model(
    name: str, folder: ModelFolder, args: argparse.Namespace
) -> tuple[str, Method, nn.Module, nn.Module | None]:
    """Label and method of a model as it is, its decoder, and its transformer if it has one."""
    placed, which = _placed(args), _which(folder, args)
    if "dit" not in folder.components and which == "vae":
        raise ValueError(f"{folder.path} has neither a transformer nor a decoder that sees the LR frames")
    trust = {"trust_code": args.trust_code}
    decoder = folder.component(which).build(**placed, **trust).requires_grad_(False)
    wanted = folder.color if args.color == "auto" else args.color
    color = ColorMatch(wanted)
    if "dit" not in folder.components:
        alone = WholeClip(decoder, None, stream_noise, color=color, **placed)
        return f"{name} (decoder alone)", alone, decoder, None
    projection, dit = (
        folder.component(part).build(**placed, **trust).requires_grad_(False) for part in ("projection", "dit")
    )
    if isinstance(dit, VideoDiT) and dit.order == "block":
        adjust_attention(dit, args.impl, None)
    prompt = None if folder.prompt is None else folder.prompt.to(**placed)
    steps = args.steps or folder.steps
    if steps == 1 and args.steps is None and isinstance(dit, VideoDiT) and dit.order == "block":
        system = FlashVSR(projection, dit, decoder, prompt, color=wanted).eval()
        return name, partial(_stream, system), decoder, dit
    latents = sampled_latents(projection, dit, prompt, steps, FlowSchedule(folder.shift, folder.solver))
    method = WholeClip(decoder, latents, stream_noise, color=color, **placed)
    return f"{name} (whole clip, {steps} step{'s' if steps > 1 else ''})", method, decoder, dit


def _of_truth(
    name: str, folder: ModelFolder, args: argparse.Namespace
) -> tuple[str, Method, nn.Module, nn.Module | None]:
    """The decoder on latents that the folder's encoder or VAE makes of the ground truth."""
    if set(args.ablate) - {"latents"}:
        raise ValueError("with --latents truth no transformer runs: --ablate takes only latents")
    placed, which = _placed(args), _which(folder, args)
    encoders = [part for part in ("encoder", "vae") if part in folder.components]
    if not encoders:
        raise ValueError(f"--latents truth takes the encoder or VAE of a model folder, and {folder.path} has neither")
    trust = {"trust_code": args.trust_code}
    encoder: Any = folder.component(encoders[0]).build(**placed, **trust).requires_grad_(False)
    decoder = folder.component(which).build(**placed, **trust).requires_grad_(False)
    color = ColorMatch(folder.color if args.color == "auto" else args.color)

    def encode(hr: Tensor, lr: Tensor) -> Tensor:
        return encoder.encode(hr, lr) if encoders[0] == "encoder" else encoder.encode(hr)[0]

    method = WholeClip(decoder, None, stream_noise, color=color, encode=encode, **placed)
    return f"{name} ({which}, latents of the truth)", method, decoder, None


def _placed(args: argparse.Namespace) -> dict[str, Any]:
    """Device and dtype of the networks."""
    device = choose_device(args.device)
    return {"device": device, "dtype": choose_dtype(args.dtype, device)}


def _which(folder: ModelFolder, args: argparse.Namespace) -> str:
    """Which decoder of a folder."""
    return DECODERS.get(args.decoder) or ("decoder" if "decoder" in folder.components else "vae")


def sampled_latents(
    projection: nn.Module, dit: nn.Module, prompt: Tensor | None, steps: int, schedule: FlowSchedule
) -> Callable[[Tensor, Tensor], Tensor]:
    """From LR frames and noise to latents, whole clip at once; see :class:`~flashvsr.evaluate.WholeClip`."""

    def latents(lr: Tensor, noise: Tensor) -> Tensor:
        tokens, _ = projection(lr, streaming=False)
        return schedule.sample(dit, noise, tokens, steps=steps, prompt=prompt)

    return latents


def stream_noise(seed: int, count: int, size: tuple[int, int]) -> Tensor:
    """The noise that a stream of that seed would see, `[1, 16, count, H/8, W/8]`."""
    geometry, chunks = Geometry(), 0
    pieces: list[Tensor] = []
    while sum(piece.shape[2] for piece in pieces) < count:
        pieces.append(chunk_noise(geometry, seed, chunks, size))
        chunks += 1
    return torch.cat(pieces, 2)[:, :, :count]


def _stream(system: FlashVSR, lr: Tensor, seed: int) -> Tensor:
    return system.upscale(lr, seed=seed)


def _changed(
    method: Method, change: Callable[[nn.Module], RemovableHandle], module: nn.Module
) -> Callable[..., Tensor]:
    """The method with one network changed while it runs."""

    def run(*arguments: Any) -> Tensor:
        with change(module):
            return method(*arguments)

    return run
