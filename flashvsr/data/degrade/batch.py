"""Degradation of a batch on its device; only the codec runs on the CPU."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from flashvsr.data.degrade.blur import BlurWalk, apply_blur
from flashvsr.data.degrade.clip import to_bytes
from flashvsr.data.degrade.codec import through_codec
from flashvsr.data.degrade.draw import ClipDraw, PresetSampler, RoundDraw
from flashvsr.data.degrade.jpeg import JpegWalk, simulate_jpeg
from flashvsr.data.degrade.noise import NoiseWalk
from flashvsr.data.degrade.resize import low_size, resize
from flashvsr.data.degrade.settings import Blur, DegradationRound
from flashvsr.streaming import resize_bicubic


class BatchDegradation:
    """`Degradation` for a batch that is on a GPU already: the same settings and, for a seed, the same draws.

    Where it differs from `Degradation`:

    * one codec instead of two, always last, on the small frames (real encoders, one CPU thread per clip). It is the
      encoder of the first round, with as many bits per pixel as that has; the second round's is not used.
    * JPEG is simulated: the same tables and the same 4:2:0 colour, without the rounding inside libjpeg's transforms;
    * the resize factor is that of the first frame for the whole clip;
    * noise comes from the device's generator: other numbers, the same distribution;
    * clean clips are reduced by `flashvsr.streaming.resize_bicubic`, PIL's filter but for isolated samples.

    The result of a sample depends on its frames, its seed and the kind of device, not on the rest of the batch.

    Args:
        preset: As for `Degradation`; likewise ``first``, ``second``, ``sinc`` and ``clean_fraction``.
        threads: Clips encoded at the same time.
        drift: Whether numbers drift from frame to frame. False: those of the first frame stay for the clip, which saves
            the host most of its work.

    Raises:
        ValueError: If a preset is unknown, probabilities do not make sense or ``threads`` is not positive.
    """

    def __init__(
        self,
        preset: str | dict[str, float] = "realbasicvsr",
        *,
        first: DegradationRound | None = None,
        second: DegradationRound | None = None,
        sinc: Blur | None = None,
        clean_fraction: float = 0.0,
        threads: int = 4,
        drift: bool = True,
    ) -> None:
        if threads < 1:
            raise ValueError(f"threads={threads}: expected at least 1")
        self.presets = PresetSampler(preset, first, second, sinc, clean_fraction)
        self.threads, self.drift = threads, drift

    @torch.no_grad()
    def __call__(self, hr: Tensor, seeds: Tensor) -> Tensor:
        """Degrade a batch.

        Args:
            hr: `[B, 3, T, H, W]` on any device, uint8 or float in [-1, 1].
            seeds: `[B]` int64, one per sample.

        Returns:
            uint8 `[B, 3, T, h, w]` on the device of ``hr``; h and w are a quarter, rounded to the nearest.

        Raises:
            ValueError: If the shapes do not fit.
        """
        if hr.ndim != 5 or hr.shape[1] != 3 or tuple(seeds.shape) != (len(hr),):
            raise ValueError(f"hr {tuple(hr.shape)} and seeds {tuple(seeds.shape)}: expected [B, 3, T, H, W] and [B]")
        with ThreadPoolExecutor(self.threads) as pool:
            running = [
                self._start(pool, clip.transpose(0, 1), seed) for clip, seed in zip(hr, seeds.tolist(), strict=True)
            ]
            clips = [future.result() for future in running]
        return torch.stack(clips).to(hr.device).transpose(1, 2)

    def _start(self, pool: ThreadPoolExecutor, clip: Tensor, seed: int) -> Future[Tensor]:
        """Do the device's part of `[T, 3, H, W]` and leave the codec to the pool; the result is on the CPU."""
        frames = clip.float() if clip.dtype == torch.uint8 else (clip.float() + 1) * 127.5
        height, width = frames.shape[-2:]
        size = low_size(height, width)
        recipe = self.presets.sample(seed)
        if recipe is None:
            return pool.submit(resize_bicubic(to_bytes(frames), size).cpu)
        draw = ClipDraw(recipe, seed, height=height, width=width)
        middle = self._spoil(frames, draw.rounds[0])
        low = resize(self._spoil(middle, draw.rounds[1]), size, draw.final_method)
        done = to_bytes(self._blur(low, draw.sinc)).cpu()
        codec = draw.rounds[0].codec
        if not codec.active:
            return pool.submit(done.clone)
        bits = codec.bits * size[0] * size[1] / (middle.shape[-2] * middle.shape[-1])
        return pool.submit(_encoded, done, codec.codec, max(1, round(bits)))

    def _spoil(self, frames: Tensor, draw: RoundDraw) -> Tensor:
        """Blur, resize, noise and JPEG of one round: `[T, 3, H, W]` to whole numbers in 0..255 of another size."""
        frames = self._blur(frames, draw.blur)
        if draw.resize.active:
            frames = resize(frames, draw.resize.next_size(*frames.shape[-2:]), draw.resize.method)
        if draw.noise.active:
            strength = torch.tensor(self._numbers(draw.noise, len(frames))).to(frames.device)
            generator = torch.Generator(frames.device).manual_seed(draw.noise.seed)
            frames = draw.noise.apply(frames, strength, generator)
        frames = frames.clamp(0, 255).round_()
        if draw.jpeg.active:
            quality = torch.tensor(self._numbers(draw.jpeg, len(frames))).to(frames.device)
            frames = simulate_jpeg(frames, quality)
        return frames

    def _blur(self, frames: Tensor, walk: BlurWalk) -> Tensor:
        if not walk.active:
            return frames
        kernels = [next(walk) for _ in frames] if self.drift else [next(walk)]
        return apply_blur(frames, torch.stack(kernels).to(frames.device))

    def _numbers(self, walk: NoiseWalk | JpegWalk, count: int) -> list[float]:
        """Of every frame."""
        return [next(walk) for _ in range(count)] if self.drift else [next(walk)] * count


def _encoded(frames: Tensor, codec: str, bits: int) -> Tensor:
    return torch.stack(list(through_codec(frames, codec, bits)))
