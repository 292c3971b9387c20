"""Bytes of tensors alive at the peak of each part of the full-size model, computed without a GPU.

A stream runs on PyTorch's meta device, which has shapes and no memory; what a GPU computes in one kernel is stood in
for by its output alone. Not counted are what the allocator rounds up and keeps, and workspaces of libraries.

    python benchmarks/live_bytes.py --size 2176x3840
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.attention import layers
from flashvsr.bench import PARTS
from flashvsr.decoders import blocks, tiny
from flashvsr.kernels import convolutions as convolutions
from flashvsr.models import FlashVSR, dit_blocks
from flashvsr.models.builders import lr_projection_1b, tiny_conditional_decoder_1b, video_dit_1b
from flashvsr.models.memory import GIB, LiveBytes


def stand_ins() -> list[tuple[Any, str, Any]]:
    """Functions that only make the output, for what a GPU runs as one kernel: modules, names, what to put there."""

    def attend(query: Tensor, key: Any, value: Any, mask: Tensor, **options: Any) -> Tensor:
        return query.transpose(1, 2).contiguous().transpose(1, 2)

    def norm_rope(x: Tensor, weight: Tensor, table: Tensor, *, heads: int, eps: float) -> Tensor:
        return torch.empty_like(x).unflatten(2, (heads, -1))

    def conv_relu(x: Tensor, weight: Tensor, bias: Any, plus: Any = None) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])

    return [
        (layers, "block_sparse_attention", attend),
        (layers, "norm_rope", norm_rope),
        (layers, "rms_norm", lambda x, weight, eps: torch.empty_like(x)),
        (dit_blocks, "add_norm_", lambda x, y, *norm: y),
        (blocks, "conv_relu", conv_relu),
        (tiny, "conv_relu", conv_relu),
        (convolutions, "conv_relu", conv_relu),
    ]


def build() -> FlashVSR:
    """The full-size model in bf16."""
    parts: list[Any] = [lr_projection_1b(), video_dit_1b(), tiny_conditional_decoder_1b()]
    system = FlashVSR(*parts, prompt=torch.empty(1, 512, 4096)).to(torch.bfloat16)
    return system.requires_grad_(False).eval()


def run(height: int, width: int) -> None:
    """Print a table: GiB at the peak of every part, in the first chunk and in a steady one."""
    for module, attribute, stand_in in stand_ins():
        setattr(module, attribute, stand_in)
    with torch.inference_mode(), torch.device("meta"), LiveBytes() as live:
        system, state, rows = build(), None, dict[str, list[float]]()

        def start(*_: Any) -> None:
            live.peak = live.live

        for name in PARTS:

            def stop(module: nn.Module, args: Any, out: Any, name: str = name) -> None:
                rows.setdefault(name, []).append(live.peak / GIB)

            part: nn.Module = getattr(system, name)
            part.register_forward_pre_hook(start)
            part.register_forward_hook(stop)
        print(f"{width}x{height}, weights {live.live / GIB:.2f} GiB")
        for frames, latents in ((25, 6), (8, 2), (8, 2)):
            lr = torch.empty(1, 3, frames, height, width, dtype=torch.bfloat16)
            noise = torch.empty(1, 16, latents, height // 8, width // 8, dtype=torch.bfloat16)
            out, state = system.step(lr, noise, state)
            del lr, noise, out
        print("| part | first chunk | steady chunk |\n|---|---|---|")
        for name, peaks in rows.items():
            print(f"| {name} | {peaks[0]:.2f} | {peaks[-1]:.2f} |")
        cache = sum(x.nbytes for x in (state.dit.cache.keys, state.dit.cache.values)) / GIB
        print(f"between chunks {live.live / GIB:.2f} GiB, of which keys and values {cache:.2f} GiB")


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--size", default="768x1408", metavar="HxW", help="output size (default: 768x1408)")
    args = parser.parse_args()
    height, width = (int(part) for part in args.size.split("x"))
    run(height, width)
    return 0


if __name__ == "__main__":
    sys.exit(main())
