"""Degradation of one clip on the CPU, frame by frame: for the workers of a data loader, and for files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor

from flashvsr.data.degrade.blur import BlurWalk, apply_blur
from flashvsr.data.degrade.codec import CodecDraw, through_codec
from flashvsr.data.degrade.draw import ClipDraw, PresetSampler, RoundDraw
from flashvsr.data.degrade.jpeg import encode_jpeg
from flashvsr.data.degrade.resize import bicubic_quarter, low_size, resize
from flashvsr.data.degrade.settings import Blur, DegradationRound


class Degradation:
    """A sharp clip goes in, a quarter-size clip with the faults of real video comes out: RealBasicVSR's pipeline.

    Two rounds of blur, resize, noise, JPEG and video codec; in the second the codec comes before or after (half each)
    the reduction to a quarter and a sinc blur. What is drawn once per clip: kinds, sizes, methods, grayness, encoder
    and bit rate, order. The numbers (sigma, angle, shape, cut-off, factor, noise strength, JPEG quality) take the
    published small random step from frame to frame. Frames whose factor drifts are brought to the size of the first
    by the codec.

    The result depends on frames and seed only, not on global random state, the number of threads, or how many frames
    follow. An image is a clip of one frame.

    What differs from the released code: numbers are rounded, not cut off, on the way to 8 bits; the shape of a
    generalised or plateau kernel drifts, where theirs is drawn anew between 1 and its value in every frame; the bit
    budget of the codec grows with the clip's pixels (see `Codec`); encoders use fast presets; the clip is taken
    as it is, while the paper degrades an unsharp-masked one.

    Args:
        preset: ``"realbasicvsr"`` as published; ``"mild"`` for decent consumer video; or the probability of each.
        first: Replaces the first round of the preset; what a `DegradationRound` leaves out is the paper's first round.
        second: Replaces the second round, likewise.
        sinc: Replaces the blur after the reduction.
        clean_fraction: Share of the clips, by their seed, that are only reduced with PIL's bicubic filter.

    Raises:
        ValueError: If a preset is unknown, or probabilities or the fraction do not make sense.

    Reference:
        RealBasicVSR, https://arxiv.org/abs/2111.12704, section 4 and the released configuration; Real-ESRGAN,
        https://arxiv.org/abs/2107.10833, section 3.
    """

    def __init__(
        self,
        preset: str | dict[str, float] = "realbasicvsr",
        *,
        first: DegradationRound | None = None,
        second: DegradationRound | None = None,
        sinc: Blur | None = None,
        clean_fraction: float = 0.0,
    ) -> None:
        self.presets = PresetSampler(preset, first, second, sinc, clean_fraction)

    def __call__(self, frames: Tensor, seed: int) -> Tensor:
        """Degrade a clip.

        Args:
            frames: uint8 `[T, 3, H, W]` on the CPU, any T from 1.
            seed: Any integer.

        Returns:
            uint8 `[T, 3, h, w]`; h and w are a quarter, rounded to the nearest (halves up): feed multiples of 4.

        Raises:
            ValueError: If the frames are of another type or shape, or there is none.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3 or len(frames) == 0:
            raise ValueError(f"frames {frames.dtype} {tuple(frames.shape)}: expected uint8 [T, 3, H, W] with T >= 1")
        return torch.stack(list(self.stream(frames, seed)))

    def stream(self, frames: Iterable[Tensor], seed: int) -> Iterator[Tensor]:
        """Degrade a clip of any length in bounded memory: some frames are ahead inside the codecs.

        Args:
            frames: uint8 `[3, H, W]`, all of one size, on the CPU.
            seed: Any integer.

        Yields:
            uint8 `[3, h, w]`, as many as came, equal to what a call with all of them gives.
        """
        coming = iter(frames)
        start = next(coming, None)
        if start is None:
            return
        coming = chain([start], coming)
        recipe = self.presets.sample(seed)
        if recipe is None:
            yield from map(bicubic_quarter, coming)
            return
        height, width = start.shape[-2:]
        draw = ClipDraw(recipe, seed, height=height, width=width)
        first, second = draw.rounds
        passed = _codec(_spoil(coming, first), first.codec)
        passed = _spoil(passed, second)
        size = low_size(height, width)
        if draw.codec_first:
            yield from _reduce(_codec(passed, second.codec), size, draw.final_method, draw.sinc)
        else:
            yield from _codec(_reduce(passed, size, draw.final_method, draw.sinc), second.codec)


def _spoil(frames: Iterable[Tensor], draw: RoundDraw) -> Iterator[Tensor]:
    """Blur, resize, noise and JPEG of one round, uint8 to uint8; the size may change from frame to frame."""
    generator = torch.Generator().manual_seed(draw.noise.seed)
    for frame in frames:
        pixels = frame[None].float()
        if draw.blur.active:
            pixels = apply_blur(pixels, next(draw.blur)[None])
        if draw.resize.active:
            pixels = resize(pixels, draw.resize.next_size(*pixels.shape[-2:]), draw.resize.method)
        if draw.noise.active:
            pixels = draw.noise.apply(pixels, torch.tensor([next(draw.noise)]), generator)
        done = to_bytes(pixels)[0]
        yield encode_jpeg(done, next(draw.jpeg)) if draw.jpeg.active else done


def _codec(frames: Iterable[Tensor], draw: CodecDraw) -> Iterator[Tensor]:
    """A codec, when the clip has one, over frames brought to the size of the first."""
    return through_codec(_one_size(frames), draw.codec, draw.bits) if draw.active else iter(frames)


def _one_size(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    size: tuple[int, int] | None = None
    for frame in frames:
        size = size or (frame.shape[-2], frame.shape[-1])
        yield frame if frame.shape[-2:] == size else to_bytes(resize(frame[None].float(), size, "bilinear"))[0]


def _reduce(frames: Iterable[Tensor], size: tuple[int, int], method: str, sinc: BlurWalk) -> Iterator[Tensor]:
    """The final size, and the blur after it."""
    for frame in frames:
        pixels = resize(frame[None].float(), size, method)
        if sinc.active:
            pixels = apply_blur(pixels, next(sinc)[None])
        yield to_bytes(pixels)[0]


def to_bytes(pixels: Tensor) -> Tensor:
    """Float 0..255 to uint8, clamped and rounded."""
    return pixels.clamp(0, 255).round_().to(torch.uint8)
