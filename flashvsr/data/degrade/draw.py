"""Everything random about one clip but the noise itself, drawn from its seed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flashvsr.data.degrade.blur import BlurWalk
from flashvsr.data.degrade.codec import CodecDraw
from flashvsr.data.degrade.jpeg import JpegWalk
from flashvsr.data.degrade.noise import NoiseWalk
from flashvsr.data.degrade.resize import ResizeWalk
from flashvsr.data.degrade.settings import PRESETS, RESIZE_METHODS, Blur, DegradationRound, DegradationSettings


class RoundDraw:
    """The draws of one round; each operation has its own generator, so that none depends on how far another went."""

    def __init__(self, settings: DegradationRound, seed: int, number: int, *, pixels: int) -> None:
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

    def __init__(self, recipe: DegradationSettings, seed: int, *, height: int, width: int) -> None:
        pixels = height * width
        self.rounds = (
            RoundDraw(recipe.first, seed, 1, pixels=pixels),
            RoundDraw(recipe.second, seed, 2, pixels=pixels),
        )
        rng = _rng(seed, 3, 0)
        self.final_method = RESIZE_METHODS[int(rng.integers(len(RESIZE_METHODS)))]
        self.codec_first = bool(rng.random() < 0.5)
        self.sinc = BlurWalk(recipe.sinc, _rng(seed, 3, 1))


class PresetSampler:
    """Which degradation a clip gets, by its seed.

    Args:
        preset: Name of a preset, or the probability of each of several; they sum to 1.
        first: Replaces the first round of all of them; likewise ``second`` and ``sinc``.
        clean_fraction: Share of the clips that are reduced and nothing else.

    Raises:
        ValueError: If a preset is unknown, the probabilities do not sum to 1 or the fraction is not in [0, 1].
    """

    def __init__(
        self,
        preset: str | Mapping[str, float],
        first: DegradationRound | None,
        second: DegradationRound | None,
        sinc: Blur | None,
        clean_fraction: float,
    ) -> None:
        chances = {preset: 1.0} if isinstance(preset, str) else dict(preset)
        for name in chances:
            if name not in PRESETS:
                raise ValueError(f"preset {name!r}: expected one of {', '.join(PRESETS)}")
        if not chances or min(chances.values()) < 0 or abs(sum(chances.values()) - 1) > 1e-6:
            raise ValueError(f"preset={chances}: expected probabilities that sum to 1")
        if not 0 <= clean_fraction <= 1:
            raise ValueError(f"clean_fraction={clean_fraction}: expected a number in [0, 1]")
        self._clean_fraction, self._chances = clean_fraction, tuple(chances.values())
        self._recipes = [
            DegradationSettings(first or found.first, second or found.second, sinc or found.sinc)
            for found in map(PRESETS.__getitem__, chances)
        ]

    def sample(self, seed: int) -> DegradationSettings | None:
        """The settings for the clip of this seed; None for a clean one."""
        rng = _rng(seed, 0, 0)
        if rng.random() < self._clean_fraction:
            return None
        return self._recipes[int(rng.choice(len(self._recipes), p=self._chances))]


def _rng(seed: int, stage: int, operation: int) -> np.random.Generator:
    return np.random.default_rng((seed % (1 << 64), stage, operation))
