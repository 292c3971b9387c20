"""The LR projection in a running stream: Conv3d, as released, against frames stacked in channels.

A chunk is eight LR frames. Paths take turns, the least time counts; the error is taken against Conv3d in a wider dtype,
in the same run.

    python benchmarks/lr_projection.py                                    # small, and nano's widths, on a CPU
    python benchmarks/lr_projection.py --size 768x1408 --device cuda      # the released widths in bf16
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from unittest.mock import patch

import torch
from interleaved import Row, compare, convolution_ceiling, print_head, run
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

    def project() -> Tensor:
        return projection(lr, state.clone())[0]

    calls: dict[str, Callable[[], Tensor]] = {
        "Conv3d": lambda: with_convolution(project),
        "stacked in three passes": lambda: with_stacking(stack_frames, project),
        "stacked in one pass": lambda: with_stacking(stack_frames_once, project),
    }
    return compare("LR projection", calls, exact, device, ceiling, repeats)


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, size="256x384", multiple=16, nano=NANO, released=RELEASED))
