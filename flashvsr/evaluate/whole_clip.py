"""Run a model on a whole clip at once: full attention, many steps, or any decoder; nothing streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flashvsr.data.degrade.resize import SCALE
from flashvsr.evaluate.clips import resize

MULTIPLE = 128
LOOKAHEAD = 4


class WholeClip:
    """Projection, transformer and decoder over all frames of a clip; or only a decoder.

    Padding is what a stream does: the last frame is repeated until there are 8n + 1 frames, at least 4 more than there
    are to show, and the picture is mirrored to multiples of 128 pixels. Both are cut off again.

    Args:
        decoder: Latents and LR frames to frames: ``frames, state = decoder(latents, lr)``, a VAE included.
        latents: ``latents(lr, noise)``: from LR frames `[1, 3, T, H, W]` in [-1, 1] at the output size and noise
            `[1, 16, (T - 1) / 4, H/8, W/8]` to latents of that shape. None for a decoder by itself: it gets zeros.
        noise: ``noise(seed, count, size)``: normal numbers `[1, 16, count, H/8, W/8]` for an output size of `(H, W)`.
        color: Brings colours back: ``color(frames, lr, (height, width))``; None for none.
        encode: ``encode(frames, lr)``: HR frames `[1, 3, T, H, W]` in [-1, 1], T = 4n + 1, and their upsampled LR
            frames to latents. The decoder then sees latents of the ground truth: what it can make of good ones. None
            for those of `latents`.
        device: Of the networks.
        dtype: Of the networks.
    """

    def __init__(
        self,
        decoder: nn.Module,
        latents: Callable[[Tensor, Tensor], Tensor] | None,
        noise: Callable[[int, int, tuple[int, int]], Tensor],
        *,
        color: Callable[[Tensor, Tensor, tuple[int, int]], Tensor] | None = None,
        encode: Callable[[Tensor, Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._decoder: Any = decoder
        self._latents, self._noise, self._color, self._encode = latents, noise, color, encode
        self._placed: dict[str, Any] = {"device": torch.device(device), "dtype": dtype}

    @property
    def needs_truth(self) -> bool:
        """Whether a call takes the ground truth, too."""
        return self._encode is not None

    @torch.inference_mode()
    def __call__(self, lr: Tensor, seed: int, truth: Tensor | None = None) -> Tensor:
        """Upscale.

        Args:
            lr: LR frames `[T, 3, h, w]`, uint8, any T.
            seed: Of the noise.
            truth: HR frames `[T, 3, 4h, 4w]`, uint8, where :attr:`needs_truth`.

        Returns:
            `[T, 3, 4h, 4w]`, uint8.

        Raises:
            ValueError: If the ground truth is needed and not there.
        """
        count, content = len(lr), (SCALE * lr.shape[2], SCALE * lr.shape[3])
        frames = _padded(resize(lr, content).to(self._placed["device"])).to(self._placed["dtype"])
        size = (frames.shape[3], frames.shape[4])
        noise = self._noise(seed, (frames.shape[2] - 1) // 4, size).to(**self._placed)
        if self._encode is not None:
            if truth is None:
                raise ValueError("latents of the ground truth need a clip that has one")
            hr = _padded(truth.to(self._placed["device"])).to(self._placed["dtype"])
            latents = self._encode(hr[:, :, :-LOOKAHEAD], frames[:, :, :-LOOKAHEAD])
        else:
            latents = torch.zeros_like(noise) if self._latents is None else self._latents(frames, noise)
        shown = frames[:, :, :-LOOKAHEAD]
        out, _ = self._decoder(latents, shown)
        if self._color is not None:
            out = self._color(out, shown, content)
        out = out[0, :, :count, : content[0], : content[1]].float()
        return out.add(1).mul_(127.5).clamp_(0, 255).round_().to(torch.uint8).transpose(0, 1).cpu()


def _padded(frames: Tensor) -> Tensor:
    """`[T, 3, H, W]` uint8 to `[1, 3, T', H', W']` in [-1, 1] of legal length and size."""
    count = 8 * -(-(len(frames) + LOOKAHEAD - 1) // 8) + 1
    frames = torch.cat((frames, frames[-1:].expand(count - len(frames), -1, -1, -1)))
    rows, columns = (_mirrored(side, frames.device) for side in frames.shape[2:])
    frames = frames[:, :, rows][..., columns]
    return frames.transpose(0, 1)[None].float().div_(127.5).sub_(1)


def _mirrored(pixels: int, device: torch.device) -> Tensor:
    """Index of every row or column of the padded picture: 0, 1, ... n-1, n-2, ... 1, 0, 1, ..."""
    index = torch.arange(-(-pixels // MULTIPLE) * MULTIPLE, device=device) % (2 * (pixels - 1))
    return torch.minimum(index, 2 * (pixels - 1) - index)


def without_velocity(dit: nn.Module) -> RemovableHandle:
    """The transformer returns zero velocity, so that the latents are the noise itself.

    Returns:
        A handle: ``with without_velocity(dit): ...``, or its ``remove()``, ends it.
    """
    return dit.register_forward_hook(lambda module, arguments, result: (torch.zeros_like(result[0]), *result[1:]))


def without_latents(decoder: nn.Module) -> RemovableHandle:
    """The decoder sees zero latents: its output comes only from the LR frames.

    Returns:
        A handle: ``with without_latents(decoder): ...``, or its ``remove()``, ends it.
    """
    return scaled_latents(decoder, 0.0)


def scaled_latents(decoder: nn.Module, factor: float) -> RemovableHandle:
    """The decoder sees latents multiplied by a factor.

    Returns:
        A handle, as of :func:`without_latents`.
    """
    return decoder.register_forward_pre_hook(lambda module, arguments: (factor * arguments[0], *arguments[1:]))


class ShuffledLatents:
    """A method whose decoder sees the latents of another clip, beside the LR frames of the right one.

    Args:
        method: ``method(lr, seed)``.
        decoder: Of the method.
    """

    needs_other = True

    def __init__(self, method: Callable[[Tensor, int], Tensor], decoder: nn.Module) -> None:
        self._method, self._decoder = method, decoder

    def __call__(self, lr: Tensor, seed: int, other: Tensor) -> Tensor:
        """Upscale.

        Args:
            lr: LR frames `[T, 3, h, w]`, uint8.
            seed: Of the noise.
            other: LR frames of another clip; they are repeated or cut to the length and size of `lr`.

        Returns:
            `[T, 3, 4h, 4w]`, uint8.
        """
        kept: list[Tensor] = []

        def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            kept.append(arguments[0].clone())

        def replace(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return (kept.pop(0), *arguments[1:])

        with self._decoder.register_forward_pre_hook(keep):
            self._method(_repeated(other, lr), seed)
        with self._decoder.register_forward_pre_hook(replace):
            return self._method(lr, seed)


def _repeated(frames: Tensor, like: Tensor) -> Tensor:
    """`[T, 3, h, w]` repeated or cut to the length and size of another."""
    for dim in (0, 2, 3):
        frames = frames.index_select(dim, torch.arange(like.shape[dim]) % frames.shape[dim])
    return frames
