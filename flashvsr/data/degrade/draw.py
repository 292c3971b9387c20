"""Everything random about one clip but the noise itself, drawn from its seed."""

from __future__ import annotations

import numpy as np

from flashvsr.data.degrade.blur import BlurWalk
from flashvsr.data.degrade.codec import CodecDraw
from flashvsr.data.degrade.jpeg import JpegWalk
from flashvsr.data.degrade.noise import NoiseWalk
from flashvsr.data.degrade.presets import PRESETS
from flashvsr.data.degrade.resize import ResizeWalk
from flashvsr.data.degrade.settings import RESIZE_METHODS, Blur, Recipe, Stage


class StageDraw:
    """The draws of one round; each operation has its own generator, so that none depends on how far another went."""

    def __init__(self, settings: Stage, seed: int, number: int, *, pixels: int) -> None:
        self.blur = BlurWalk(settings.blur, _rng(seed, number, 0))
        self.resize = ResizeWalk(settings.resize, _rng(seed, number, 1))
        self.noise = NoiseWalk(settings.noise, _rng(seed, number, 2))
        self.jpeg = JpegWalk(settings.jpeg, _rng(seed, number, 3))
        self.codec = CodecDraw(settings.codec, _rng(seed, number, 4), pixels=pixels)


class ClipDraw:
    """The draws of one clip, the same in both versions of the degradation.

    Attributes:
        stages: Of the two rounds.
        final_method: Interpolation of the reduction to the final size.
        sinc: The blur after it.
        codec_first: The second codec comes before that reduction; else after the sinc.
    """

    def __init__(self, recipe: Recipe, seed: int, *, height: int, width: int) -> None:
        pixels = height * width
        self.stages = (
            StageDraw(recipe.first, seed, 1, pixels=pixels),
            StageDraw(recipe.second, seed, 2, pixels=pixels),
        )
        rng = _rng(seed, 3, 0)
        self.final_method = RESIZE_METHODS[int(rng.integers(len(RESIZE_METHODS)))]
        self.codec_first = bool(rng.random() < 0.5)
        self.sinc = BlurWalk(recipe.sinc, _rng(seed, 3, 1))


def is_clean(seed: int, fraction: float) -> bool:
    """Whether the clip of this seed is among the given fraction that is reduced and nothing else."""
    return bool(_rng(seed, 0, 0).random() < fraction)


def recipe_of(preset: str, first: Stage | None, second: Stage | None, sinc: Blur | None, fraction: float) -> Recipe:
    """A preset with some rounds replaced.

    Raises:
        ValueError: If the preset is unknown or ``fraction``, of clean clips, is not in [0, 1].
    """
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    if not 0 <= fraction <= 1:
        raise ValueError(f"clean_fraction={fraction}: expected a number in [0, 1]")
    found = PRESETS[preset]
    return Recipe(first or found.first, second or found.second, sinc or found.sinc)


def _rng(seed: int, stage: int, operation: int) -> np.random.Generator:
    return np.random.default_rng((seed % (1 << 64), stage, operation))
