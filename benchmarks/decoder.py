"""The tiny conditional decoder in a running stream, as released against as it runs here, part by part.

A steady chunk is two latents, which become eight pictures. Paths take turns, the least time counts; the error of both
is taken against the released operations in a wider dtype, in the same run.

    python benchmarks/decoder.py                                          # small, and nano's widths, on a CPU
    python benchmarks/decoder.py --size 768x1408 --device cuda            # the released widths in bf16
"""

from __future__ import annotations

import sys

import torch
from interleaved import Row, compare, convolution_ceiling, print_head, run
from torch import Tensor
from torch.nn import functional

from flashvsr.decoders import TinyConditionalDecoder, TinyDecoderState
from flashvsr.decoders.blocks import MemBlock, TimeGrow, upsampling_kernels
from flashvsr.decoders.tiny import TinyNetwork
from flashvsr.kernels.convolutions import band_rows, enlarge, picture_in_bands

NANO, RELEASED = (96, 64, 32, 16), (512, 256, 128, 128)


def grow_plainly(grow: TimeGrow, conv: torch.nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Nearest upsampling, growth in time and a convolution, one after the other: frames in order of time."""
    grown = grow.conv(functional.interpolate(x, scale_factor=2)).chunk(grow.times, 1)
    return [conv(frame) for frame in grown]


def remember_plainly(network: TinyNetwork, keys: tuple[str, ...], x: Tensor, past: dict[str, Tensor]) -> Tensor:
    """Memory blocks over the input stacked on that of the frame before."""
    for key in keys:
        before = past.get(key, torch.zeros_like(x))
        past[key], x = x, torch.relu(network[key].conv(torch.cat([x, before], 1)) + x)
    return x


def decode_plainly(network: TinyNetwork, inputs: list[Tensor], past: dict[str, Tensor]) -> Tensor:
    """The released operations, latent by latent: frames `[1, 3, 4n, H, W]`, raw."""
    frames = []
    for x in inputs:
        x = 3 * torch.tanh(x / 3)
        for key in ("1", "3"):
            x = torch.relu(network[key](x))
        x = remember_plainly(network, ("5", "6", "7"), x, past)
        (x,) = grow_plainly(network["9"], network["10"], x)
        x = remember_plainly(network, ("11", "12", "13"), x, past)
        for half in grow_plainly(network["15"], network["16"], x):
            half = remember_plainly(network, ("17", "18", "19"), half, past)
            frames += [finish_plainly(network, full) for full in grow_plainly(network["21"], network["22"], half)]
    return torch.stack(frames, 2).contiguous()


def finish_plainly(network: TinyNetwork, full: Tensor) -> Tensor:
    """The stage at full resolution, from what was enlarged to a picture."""
    return network["26"](torch.relu(network["24"](torch.relu(full))))


def measure(
    size: tuple[int, int], channels: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype, repeats: int
) -> list[Row]:
    """All parts, at the shapes of one output size."""
    torch.manual_seed(0)
    network = TinyConditionalDecoder(channels=channels).decoder.to(device, dtype).to(memory_format=torch.channels_last)
    wide = TinyConditionalDecoder(channels=channels).decoder.to(device)
    wide.load_state_dict(network.state_dict())
    wider = torch.float64 if dtype == torch.float32 else torch.float32
    wide = wide.to(wider)
    ceiling = convolution_ceiling(device, dtype)
    print_head(device, str(dtype).removeprefix("torch."), ceiling)

    def features(count: int, shrink: int) -> Tensor:
        x = torch.randn(1, count, size[0] // shrink, size[1] // shrink, device=device, dtype=dtype)
        return x.contiguous(memory_format=torch.channels_last)

    rows = []
    for shrink, width, keys in ((8, channels[0], ("9", "10")), (4, channels[1], ("15", "16")), (2, *channels[2:3], ())):
        x, past, block = features(width, shrink), features(width, shrink), MemBlock(width).to(device, dtype)
        exact = MemBlock(width).to(device, wider)
        exact.load_state_dict(block.state_dict())
        rows += compare(
            f"memory block, {width} at 1/{shrink}",
            {
                "stacked": lambda x=x, past=past, block=block: torch.relu(block.conv(torch.cat([x, past], 1)) + x),
                "two sums": lambda x=x, past=past, block=block: block(x, past)[0],
            },
            torch.relu(exact.conv(torch.cat([x, past], 1).to(wider)) + x.to(wider)),
            device,
            ceiling,
            repeats,
        )
        if keys:
            grow, conv = (network[key] for key in keys)
            plain_wide = torch.cat(grow_plainly(wide[keys[0]], wide[keys[1]], x.to(wider)), 1)
            rows += compare(
                f"upsampling, {width} at 1/{shrink}",
                {
                    "three steps": lambda x=x, grow=grow, conv=conv: torch.cat(grow_plainly(grow, conv, x), 1),
                    "transposed": lambda x=x, grow=grow, conv=conv: torch.cat(
                        [enlarge(x, kernel) for kernel in upsampling_kernels(grow, conv)], 1
                    ),
                },
                plain_wide,
                device,
                ceiling,
                repeats,
            )
    half = features(channels[2], 2)
    kernel = upsampling_kernels(network["21"], network["22"])[0]
    rows += compare(
        f"last stage, {channels[3]} at 1/1",
        {
            "plain": lambda: finish_plainly(network, grow_plainly(network["21"], network["22"], half)[0]),
            "whole picture": lambda: picture_in_bands(half, kernel, network["24"], network["26"], half.shape[2]),
            "in bands": lambda: picture_in_bands(
                half, kernel, network["24"], network["26"], band_rows(half, channels[3])
            ),
        },
        finish_plainly(wide, grow_plainly(wide["21"], wide["22"], half.to(wider))[0]),
        device,
        ceiling,
        repeats,
    )
    inputs = [features(network["1"].in_channels, 8) for _ in range(2)]
    state = network(iter(inputs), 1, len(inputs), None)[1]
    past = dict(zip(("5", "6", "7", "11", "12", "13", "17", "18", "19"), state.past, strict=True))
    rows += compare(
        "whole chunk of 8 frames",
        {
            "released": lambda: decode_plainly(network, inputs, dict(past)),
            "as it runs": lambda: network(iter(inputs), 1, len(inputs), TinyDecoderState(list(state.past)))[0],
        },
        decode_plainly(wide, [x.to(wider) for x in inputs], {key: x.to(wider) for key, x in past.items()}),
        device,
        ceiling,
        repeats,
    )
    return rows


if __name__ == "__main__":
    sys.exit(run(__doc__, measure, size="192x320", multiple=8, nano=NANO, released=RELEASED))
