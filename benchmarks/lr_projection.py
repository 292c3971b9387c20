"""The LR projection in a running stream: Conv3d, as released, against frames stacked in channels.

A chunk is eight LR frames. Paths take turns, the least time counts; the error is taken against Conv3d in a wider dtype,
in the same run.

    python benchmarks/lr_projection.py                                    # small, and nano's widths, on a CPU
    python benchmarks/lr_projection.py --size 768x1408 --device cuda      # the released widths in bf16
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from interleaved import DTYPES, Row, compare, convolution_ceiling, print_head, write_rows
from torch import Tensor
from torch.nn import functional

from flashvsr.models import LRProjection, lr_projection
from flashvsr.models.lr_projection import StackedConv3d, stack_frames, stack_frames_once

NANO, RELEASED = (48, 128, 256), (2048, 3072, 1536)


def convolve_in_3d(conv: StackedConv3d, x: Tensor) -> Tensor:
    """What a :class:`StackedConv3d` stands for: `[B, T, h, w, in]` to `[B, (T - 2) / 2, h, w, out]`."""
    padded = functional.pad(x.permute(0, 4, 1, 2, 3), (1, 1, 1, 1, 0, 0), mode="replicate")
    out = functional.conv3d(padded, conv.weight, conv.bias, stride=(2, 1, 1))
    return out.permute(0, 2, 3, 4, 1)


def with_convolution(call: Callable[[], Tensor]) -> Tensor:
    """Run with Conv3d in place of the stacked one."""
    with patch.object(StackedConv3d, "forward", convolve_in_3d):
        return call()


def with_stacking(stack: Callable[[Tensor], Tensor], call: Callable[[], Tensor]) -> Tensor:
    """Run with one way to stack frames."""
    with patch.object(lr_projection, "stack_frames_once", stack):
        return call()


def measure(
    size: tuple[int, int], widths: tuple[int, int, int], device: torch.device, dtype: torch.dtype, repeats: int
) -> list[Row]:
    """One steady chunk at one output size, along every path."""
    torch.manual_seed(0)
    projection = LRProjection(hidden=widths[:2], dim=widths[2]).to(device, dtype)
    wider = torch.float64 if dtype == torch.float32 else torch.float32
    wide = copy.deepcopy(projection).to(wider)
    start, lr = (torch.rand(1, 3, count, *size, device=device, dtype=dtype) * 2 - 1 for count in (1, 8))
    state = projection(start)[1]
    ceiling = convolution_ceiling(device, dtype)
    print_head(device, str(dtype).removeprefix("torch."), ceiling)
    exact = with_convolution(lambda: wide(lr.to(wider), wide(start.to(wider))[1])[0])

    def run() -> Tensor:
        return projection(lr, state.clone())[0]

    calls: dict[str, Callable[[], Tensor]] = {
        "Conv3d": lambda: with_convolution(run),
        "stacked in three passes": lambda: with_stacking(stack_frames, run),
        "stacked in one pass": lambda: with_stacking(stack_frames_once, run),
    }
    return compare("LR projection", calls, exact, device, ceiling, repeats)


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="256x384", metavar="HxW", help="output size, multiples of 16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--widths", nargs=3, type=int, help="default: nano's on a CPU, the released ones on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the rows to this JSON file")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    height, width = (int(part) for part in arguments.size.split("x"))
    if height % 16 or width % 16:
        print(f"--size is rows x columns in multiples of 16, got {arguments.size}", file=sys.stderr)
        return 2
    cpu = device.type == "cpu"
    widths = tuple(arguments.widths or (NANO if cpu else RELEASED))
    dtype = DTYPES[arguments.dtype or ("fp32" if cpu else "bf16")]
    with torch.inference_mode():
        write_rows(measure((height, width), widths, device, dtype, arguments.repeats), arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
