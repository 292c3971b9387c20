"""The settings under their names."""

from __future__ import annotations

from math import pi

from flashvsr.data.degrade.settings import Blur, Codec, DegradationRound, DegradationSettings, Jpeg, Noise, Resize

REALBASICVSR = DegradationSettings(
    first=DegradationRound(),
    second=DegradationRound(
        blur=Blur(sigma=(0.2, 1.5), probability=0.8),
        resize=Resize(modes=(0.3, 0.4, 0.3), scale=(0.3, 1.2), step=0.03),
        noise=Noise(gaussian_sigma=(1.0, 25.0), poisson_scale=(0.05, 2.5)),
    ),
    sinc=Blur(kernels={"sinc": 1.0}, omega=(pi / 3, pi), probability=0.8),
)
"""RealBasicVSR's training settings (https://arxiv.org/abs/2111.12704, and the released configuration)."""

MILD = DegradationSettings(
    first=DegradationRound(
        blur=Blur(sigma=(0.2, 1.6), probability=0.8),
        resize=Resize(modes=(0.1, 0.5, 0.4), scale=(0.5, 1.2), step=0.005),
        noise=Noise(gaussian_sigma=(1.0, 8.0), poisson_scale=(0.05, 0.8), probability=0.5),
        jpeg=Jpeg(quality=(60.0, 95.0), probability=0.5),
        codec=Codec(bits=(2e4, 1.5e5), probability=0.5),
    ),
    second=DegradationRound(
        blur=Blur(sigma=(0.2, 0.8), probability=0.3),
        resize=Resize(modes=(0.1, 0.3, 0.6), scale=(0.7, 1.1), step=0.005),
        noise=Noise(gaussian_sigma=(1.0, 5.0), poisson_scale=(0.05, 0.5), probability=0.3),
        jpeg=Jpeg(quality=(70.0, 95.0), probability=0.3),
        codec=Codec(bits=(4e3, 3e4), probability=0.8),
    ),
    sinc=Blur(kernels={"sinc": 1.0}, omega=(pi / 2, pi), probability=0.3),
)
"""Decent consumer video: less blur and noise, steps skipped at random, but a final codec at web bit rates."""

PRESETS = {"realbasicvsr": REALBASICVSR, "mild": MILD}
