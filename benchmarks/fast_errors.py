"""What each part of fast mode changes: velocities and frames of a stream against the same stream in fp32.

All cases get the same weights, video and noise. Beside them stand plain bf16, and the exact model on a video that was
nudged by 1e-6: the choice of blocks is discrete, so even that moves some. Kernels that a device lacks are imitated.

    python benchmarks/fast_errors.py --out fast_errors_cpu.json                          # tiny weights, on a CPU
    python benchmarks/fast_errors.py --model FOLDER --version v1.1 --size 768x1408 --device cuda --out fast_errors.json
    python benchmarks/fast_errors.py --model random --size 768x1408 --device cuda        # full size, random weights
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import flashvsr
from flashvsr.attention import choose_impl
from flashvsr.attention.impl.triton_8bit import disproof
from flashvsr.decoders import TinyConditionalDecoder
from flashvsr.kernels import available
from flashvsr.models import FlashVSR, LRProjection, VideoDiT
from flashvsr.models.builders import lr_projection_1b, tiny_conditional_decoder_1b, video_dit_1b
from flashvsr.models.fast import SPARSE_RATIO, use_fp8
from flashvsr.models.loading import DTYPES, adjust_attention, choose_device
from flashvsr.video import VideoReader

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"

FAST: dict[str, Any] = {"fp8": True, "impl": "triton_8bit", "sparse_ratio": SPARSE_RATIO}
MODES: dict[str, dict[str, Any]] = {
    "exact": {},
    "fp8": {"fp8": True},
    "triton_8bit": {"impl": "triton_8bit"},
    "triton_int8": {"impl": "triton_int8"},
    "ratio": {"sparse_ratio": SPARSE_RATIO},
    "fast": FAST,
    "fast_but_attention": {**FAST, "impl": "auto"},
}
"""Ways to run a model; the last one is for GPUs where attention in 8 bits does not pay."""

LARGE_BLOCKS = 66
"""Blocks of a slot at 768x1408."""


@dataclass(frozen=True)
class Case:
    """One way to run the model.

    Attributes:
        name: Of the mode, of :data:`MODES`, or ``"nudged"``.
        dtype: Of the computation.
        attention: Implementation.
        sparse_ratio: Density.
        velocity_error: Relative L2 error of the velocities of all chunks.
        psnr: Of the frames, in dB, against those of the run in fp32; None if they are equal.
        blocks_changed: Kept blocks that the run in fp32 does not keep, of those that it keeps.
    """

    name: str
    dtype: str
    attention: str
    sparse_ratio: float
    velocity_error: float
    psnr: float | None
    blocks_changed: float


@dataclass
class Recorded:
    """What a stream computed: frames in [0, 1], velocities by chunk, block masks by chunk and layer."""

    frames: Tensor
    velocities: list[Tensor]
    masks: list[Tensor]


def use_mode(system: FlashVSR, mode: str, *, imitate: bool = False, density: float = 1.0) -> FlashVSR:
    """Switch a system to a mode, for good.

    Args:
        system: Changed in place.
        mode: Of :data:`MODES`.
        imitate: Whether kernels in 8 bits are replaced by their plain form.
        density: Factor on the sparse ratio of a mode.
    """
    options = MODES[mode]
    impl, ratio = options.get("impl", "auto"), lower_ratio(system, mode, density)
    if impl.startswith("triton") and not imitate:
        reason = disproof(fp8_values=impl == "triton_8bit", device=system.device, dtype=system.dtype)
        if reason is not None:
            raise SystemExit(reason)
    adjust_attention(system.dit, impl.replace("triton", "plain") if imitate else impl, ratio)
    if options.get("fp8"):
        use_fp8(system.dit, system.device, system.dtype)
    return system


def lower_ratio(system: FlashVSR, mode: str, density: float) -> float | None:
    """The sparse ratio of a mode, times a factor, where the model has more."""
    attention: Any = system.dit.blocks[0].self_attn
    ratio = density * MODES[mode].get("sparse_ratio", math.inf)
    return ratio if ratio < attention.selection.sparse_ratio else None


def golden_system(layers: int | None = None) -> FlashVSR:
    """The networks of the golden tensors, tiny and random; or with so many random blocks in place of their three."""
    dit, projection, decoder = (
        torch.load(GOLDEN / f"{name}.pt", weights_only=True) for name in ("dit", "lq_proj", "tcdecoder")
    )
    config = dit["config"]
    torch.manual_seed(0)
    sizes = (config["dim"], layers or config["num_layers"], config["num_heads"], config["ffn_dim"])
    parts = (
        LRProjection(hidden=(16, 24), dim=config["dim"]),
        VideoDiT(*sizes, text_dim=config["text_dim"]),
        TinyConditionalDecoder(channels=tuple(decoder["config"]["channels"])),
    )
    states = (projection["layers1_v11"], dit, decoder)
    for part, saved in zip(parts, states, strict=True):
        if part is not parts[1] or layers is None:
            part.load_state_dict({name: tensor.float() for name, tensor in saved["state_dict"].items()})
    return FlashVSR(*parts, dit["context"].float())


def find_system(model: str, version: str | None, device: torch.device) -> FlashVSR:
    """The model in fp32 on its device."""
    if model in ("golden", "deep"):
        return golden_system(30 if model == "deep" else None).to(device)
    if model == "random":
        torch.manual_seed(0)
        with device:
            return FlashVSR(
                lr_projection_1b(), video_dit_1b(), tiny_conditional_decoder_1b(), torch.randn(1, 512, 4096)
            )
    system = flashvsr.load(model, version=version, device=device, dtype="fp32")
    if not isinstance(system, FlashVSR):
        raise SystemExit(f"{model} has no transformer, so that nothing of it can be fast")
    return system


def clip(size: tuple[int, int], frames: int) -> Tensor:
    """The example clip at a quarter of a size, back and forth, in [0, 1]: `[T, 3, h, w]`."""
    with VideoReader("example:") as reader:
        shown = torch.stack([frame.pixels for frame in reader]).float() / 255
    order = [*range(len(shown)), *range(len(shown) - 2, 0, -1)]
    video = shown[[order[number % len(order)] for number in range(frames)]]
    return functional.interpolate(video, (size[0] // 4, size[1] // 4), mode="area")


def record(system: FlashVSR, video: Tensor) -> Recorded:
    """Run a stream, all of it at once."""
    recorded = Recorded(torch.empty(0), [], [])
    handles = [system.dit.register_forward_hook(lambda _, __, out: recorded.velocities.append(out[0].float().cpu()))]
    for block in system.dit.blocks:
        layer = block.self_attn.selection
        handles.append(layer.register_forward_hook(lambda _, __, out: recorded.masks.append(out.cpu())))
    recorded.frames = system.upscale(video.to(system.device)).float().cpu()
    for handle in handles:
        handle.remove()
    return recorded


def compare(name: str, system: FlashVSR, own: Recorded, exact: Recorded) -> Case:
    """Put one run beside the exact one."""
    ours, theirs = (torch.cat([x.flatten() for x in run.velocities]) for run in (own, exact))
    pairs = list(zip(own.masks, exact.masks, strict=True))
    added, kept = (sum(int(x.sum()) for x in masks) for masks in ([a & ~b for a, b in pairs], exact.masks))
    attention: Any = system.dit.blocks[0].self_attn
    impl = attention.impl
    if impl == "auto":
        impl, _ = choose_impl(system.device, system.dtype, system.dit.head_dim, requires_grad=False)
    error = (own.frames - exact.frames).double().square().mean()
    return Case(
        name=name,
        dtype=str(system.dtype).removeprefix("torch."),
        attention=impl,
        sparse_ratio=attention.selection.sparse_ratio,
        velocity_error=((ours - theirs).norm() / theirs.norm()).item(),
        psnr=float(-10 * error.log10()) if error else None,
        blocks_changed=added / max(kept, 1),
    )


def measure(
    system: FlashVSR, size: tuple[int, int], chunks: int, dtype: torch.dtype, *, thin: bool = True
) -> list[Case]:
    """Run every mode; print and return the cases.

    Args:
        system: In fp32.
        size: Of the output.
        chunks: Steady chunks after the first one.
        dtype: Of the modes.
        thin: Whether frames smaller than 768x1408 get its density: with its ratio nothing would be left out.
    """
    system.requires_grad_(False).eval()
    density = min(1.0, size[0] * size[1] / 128**2 / LARGE_BLOCKS) if thin else 1.0
    adjust_attention(system.dit, "auto", system.dit.blocks[0].self_attn.selection.sparse_ratio * density)
    video = clip(size, system.geometry.first_frames + chunks * system.geometry.next_frames)
    exact = record(system, video)
    imitate = not available("attention_8bit", system.device, dtype)[0]
    print("| case | dtype | attention | ratio | velocity error | PSNR, dB | blocks changed |")
    print("|---|---|---|---|---|---|---|")
    cases = []

    def add(name: str, other: FlashVSR, video: Tensor = video) -> None:
        case = compare(name, other, record(other, video), exact)
        cases.append(case)
        print(
            f"| {name} | {case.dtype} | {case.attention} | {case.sparse_ratio:.3g} | {case.velocity_error:.2e} "
            f"| {'equal' if case.psnr is None else f'{case.psnr:.1f}'} | {case.blocks_changed:.2%} |",
            flush=True,
        )

    add("nudged", system, video + 1e-6 * torch.randn(video.shape, generator=torch.Generator().manual_seed(0)))
    for name in MODES:
        if name == "ratio" and lower_ratio(system, name, density) is None:
            continue  # the model's own is lower
        if name == "exact" and dtype == torch.float32:  # each part alone, and then bf16 beside them
            other = copy.deepcopy(system).to(torch.bfloat16)
        else:
            other = use_mode(copy.deepcopy(system).to(dtype), name, imitate=imitate, density=density)
        add(name, other)
    return cases


@torch.no_grad()
def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        default="golden",
        help="golden: three tiny blocks of the golden tensors; deep: thirty tiny random blocks; random: full size; or "
        "a model folder (default: golden)",
    )
    parser.add_argument("--version", choices=["v1", "v1.1"], help="release of an official folder")
    parser.add_argument("--size", default="256x384", metavar="HxW", help="of the output (default: 256x384)")
    parser.add_argument("--chunks", type=int, default=3, help="steady chunks after the first one (default: 3)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="of the modes (default: bf16 on a GPU, fp32 on a CPU)")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    height, width = (int(part) for part in arguments.size.split("x"))
    dtype = DTYPES[arguments.dtype or ("bf16" if device.type == "cuda" else "fp32")]
    system = find_system(arguments.model, arguments.version, device)
    made_here = arguments.model in ("golden", "deep", "random")
    cases = measure(system, (height, width), arguments.chunks, dtype, thin=made_here)
    if arguments.out:
        cuda = device.type == "cuda"
        what = {
            "date": datetime.now().isoformat(timespec="minutes"),
            "device": torch.cuda.get_device_name(device) if cuda else "CPU",
            "flashvsr": flashvsr.__version__,
            "torch": torch.__version__,
            "model": arguments.model,
            "size": arguments.size,
            "steady_chunks": arguments.chunks,
        }
        rows = [asdict(case) for case in cases]
        arguments.out.write_text(json.dumps({**what, "cases": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
