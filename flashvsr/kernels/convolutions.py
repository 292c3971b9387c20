"""Convolutions of the tiny decoders as functions: fused on a GPU, and the last stage in bands of rows."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from flashvsr.kernels.available import takes_kernel, unavailable

HALO = 2
"""Rows at half resolution that a band needs beyond its own: the last stage sees three pixels beyond each side."""

BAND_BYTES, BAND_BYTES_GPU = 2**23, 2**28 + 2**24
"""Size of a band's features at full resolution: near a CPU's caches; on a GPU large enough to fill it."""

COLUMNS = 4
"""Neighbouring pixels that :func:`few_channels` computes as channels of one; a picture's width is a multiple of 8."""


def conv_relu(
    x: Tensor, weight: Tensor, bias: Tensor | None, plus: Tensor | None = None, *, impl: str = "auto"
) -> Tensor:
    """``ReLU(conv(x) + bias + plus)`` with a 3x3 kernel and zero padding 1.

    Args:
        x: `[B, C, h, w]`, best in channels_last.
        weight: `[O, C, 3, 3]`.
        bias: `[O]`, or None.
        plus: `[B, O, h, w]`, or None.
        impl: ``"plain"`` (any device, with backward); ``"cudnn"``, one call on an NVIDIA GPU without gradients: the
            bias, the sum and the ReLU, each a pass over memory of its own otherwise, take as long as the convolution
            itself; or ``"auto"``: the one call where it can run.

    Returns:
        `[B, O, h, w]`.

    Raises:
        ImplUnavailableError: If the one call is named and cannot run.
        ValueError: If `impl` is unknown.
    """
    if takes_kernel(impl, _fused_unavailable(x), kernel="cudnn"):
        ones = (1, 1)  # stride, padding and dilation alike
        if plus is None:
            return torch.cudnn_convolution_relu(x, weight, bias, ones, ones, ones, 1)
        return torch.cudnn_convolution_add_relu(x, weight, plus, 1.0, bias, ones, ones, ones, 1)
    out = functional.conv2d(x, weight, bias, padding=1)
    return torch.relu_(out if plus is None else out.add_(plus))


def _fused_unavailable(x: Tensor) -> str | None:
    if torch.is_grad_enabled():
        return "it has no backward pass: gradients are on"
    if torch.is_autocast_enabled("cuda"):
        return "it takes one dtype, and autocast does not know it"
    return unavailable("fused_convolution", x.device, x.dtype)


def enlarge(x: Tensor, kernel: Tensor) -> Tensor:
    """Apply one of :func:`~flashvsr.decoders.blocks.upsampling_kernels` to `[N, C, h, w]`: `[N, O, 2h, 2w]`."""
    return functional.conv_transpose2d(x, kernel, stride=2, padding=1)


def interleave(frames: list[Tensor]) -> Tensor:
    """Merge `[N, C, h, w]` each, the first, second, ... frames of N groups: `[N * len(frames), C, h, w]`, in order."""
    return torch.stack([x.permute(0, 2, 3, 1) for x in frames], dim=1).flatten(0, 1).permute(0, 3, 1, 2)


def few_channels(x: Tensor, weight: Tensor, bias: Tensor | None, *, impl: str = "auto") -> Tensor:
    """A 3x3 convolution with zero padding 1 to few channels.

    Args:
        x: `[B, C, h, w]`, best in channels_last, with w a multiple of 4.
        weight: `[O, C, 3, 3]`.
        bias: `[O]`, or None.
        impl: ``"plain"``; ``"wide"``, for a CPU, which computes output channels sixteen at a time, so that three cost
            as much as sixteen: four pixels of a row are computed together as channels of one, from kernels of 3x6
            pixels with the 3x3 one at four places, in half the time from the same products (and zeros); or
            ``"auto"``: wide on a CPU.

    Returns:
        `[B, O, h, w]` in channels_last.

    Raises:
        ValueError: If `impl` is unknown.
    """
    if not takes_kernel(impl, None if impl == "wide" or x.device.type == "cpu" else "slower on a GPU", kernel="wide"):
        return functional.conv2d(x, weight, bias, padding=1)
    places = [functional.pad(weight, (shift, COLUMNS - 1 - shift)) for shift in range(COLUMNS)]
    wide = torch.cat(places).contiguous(memory_format=torch.channels_last)  # [4*O, C, 3, 6]
    wide_bias = None if bias is None else bias.repeat(COLUMNS)
    out = functional.conv2d(x, wide, wide_bias, stride=(1, COLUMNS), padding=1)  # [B, 4*O, h, w/4]
    return out.permute(0, 2, 3, 1).unflatten(3, (COLUMNS, -1)).flatten(2, 3).permute(0, 3, 1, 2)


def picture_in_bands(
    half: Tensor, kernel: Tensor, hidden: nn.Conv2d, last: nn.Conv2d, rows: int, out: Tensor | None = None
) -> Tensor:
    """The stage at full resolution, a band of rows at a time: enlarge, ReLU, convolution, ReLU, convolution.

    Its features are the largest tensors of a decoder. In bands they take bounded memory, and stay near the caches of a
    CPU. A band reads the rows around it, and what only lacks a neighbour there is cut off: the result is that of the
    whole picture.

    Args:
        half: `[B, C, h, w]` in channels_last.
        kernel: `[C, O, 4, 4]` for :func:`enlarge`.
        hidden: 3x3 convolution with zero padding 1, from O channels to as many.
        last: 3x3 convolution with zero padding 1, from O channels to the colours.
        rows: Rows of ``half`` per band, at least 1; see :func:`band_rows`.
        out: Where to write, of any strides; None for a new tensor.

    Returns:
        `[B, 3, 2h, 2w]`: ``out``, or contiguous.
    """
    batch, _, height, width = half.shape
    picture = half.new_empty(batch, last.out_channels, 2 * height, 2 * width) if out is None else out
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        above, below = min(top, HALO), min(height - bottom, HALO)
        full = torch.relu_(enlarge(half[:, :, top - above : bottom + below], kernel))
        # Row pairs at the outer ends lack a neighbour, unless they end at the border of the picture.
        first, end = (2 if above == HALO else 0), full.shape[2] - (2 if below == HALO else 0)
        band = few_channels(conv_relu(full[:, :, first:end], hidden.weight, hidden.bias), last.weight, last.bias)
        start = 2 * above - first
        picture[:, :, 2 * top : 2 * bottom] = band[:, :, start : start + 2 * (bottom - top)]
    return picture


def band_rows(half: Tensor, channels: int) -> int:
    """Rows of ``half`` `[B, C, h, w]` whose features of ``channels`` at full resolution fill a band: equal bands."""
    row = 2 * 2 * half.shape[0] * half.shape[3] * channels * half.element_size()
    most = max(4 * HALO, (BAND_BYTES if half.device.type == "cpu" else BAND_BYTES_GPU) // row)
    bands = -(-half.shape[2] // most)
    return max(4 * HALO, -(-half.shape[2] // bands))
