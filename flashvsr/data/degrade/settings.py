"""What may be done to a clip, how strongly and how often: plain settings, with the published values as defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import pi

Range = tuple[float, float]

KERNEL_KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc")
RESIZE_METHODS = ("bilinear", "area", "bicubic")
CODECS = ("libx264", "mpeg4", "libx265", "libvpx-vp9")

_KERNELS = dict(zip(KERNEL_KINDS, (0.405, 0.225, 0.108, 0.027, 0.108, 0.027, 0.1), strict=True))
_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)


def _thirds() -> dict[str, float]:
    return dict.fromkeys(RESIZE_METHODS, 1 / 3)


@dataclass(frozen=True)
class Blur:
    """A blur kernel, drifting a little from frame to frame.

    Attributes:
        kernels: Probability of each kind; they sum to 1.
        sizes: Rows (and columns) of the kernel, odd, equally likely.
        sigma: Of the Gaussian, generalised and plateau kinds, along each axis, pixels, > 0.
        beta_gaussian: Shape of the generalised kinds; 1 is a Gaussian, half of the draws are below it.
        beta_plateau: Shape of the plateau kinds; half of the draws are below 1 when the range reaches there.
        omega: Cut-off of the sinc, radians up to pi; None: [pi/3, pi] for sizes under 13, [pi/5, pi] from there.
        sigma_step: Largest change per frame; likewise ``angle_step`` (radians), ``beta_gaussian_step``,
            ``beta_plateau_step`` and ``omega_step``.
        probability: That a clip is blurred at all.
    """

    kernels: dict[str, float] = field(default_factory=_KERNELS.copy)
    sizes: tuple[int, ...] = _SIZES
    sigma: Range = (0.2, 3.0)
    beta_gaussian: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    omega: Range | None = None
    sigma_step: float = 0.02
    angle_step: float = 0.31416
    beta_gaussian_step: float = 0.05
    beta_plateau_step: float = 0.1
    omega_step: float = 0.0628
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_table("kernels", self.kernels, KERNEL_KINDS)
        _check_range("sigma", self.sigma, above=0)
        _check_range("beta_gaussian", self.beta_gaussian, above=0)
        _check_range("beta_plateau", self.beta_plateau, above=0)
        if self.omega is not None:
            _check_range("omega", self.omega, above=0, up_to=pi + 1e-3)
        if not self.sizes or any(size % 2 == 0 or size < 1 for size in self.sizes):
            raise ValueError(f"sizes={self.sizes}: expected odd numbers of rows")
        _check_probability(self.probability)


@dataclass(frozen=True)
class Resize:
    """A change of size, drifting a little from frame to frame.

    Attributes:
        modes: Probability of enlarging, reducing and keeping, in this order; they sum to 1.
        scale: Smallest and largest factor, around 1.
        methods: Probability of each interpolation; they sum to 1.
        step: Largest change of the factor per frame.
        probability: That a clip is resized at all.
    """

    modes: tuple[float, float, float] = (0.2, 0.7, 0.1)
    scale: Range = (0.15, 1.5)
    methods: dict[str, float] = field(default_factory=_thirds)
    step: float = 0.015
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_table("modes", dict(zip(("up", "down", "keep"), self.modes, strict=True)), ("up", "down", "keep"))
        _check_table("methods", self.methods, RESIZE_METHODS)
        _check_range("scale", self.scale, above=0)
        if not self.scale[0] <= 1 <= self.scale[1]:
            raise ValueError(f"scale={self.scale}: expected a range that holds 1")
        _check_probability(self.probability)


@dataclass(frozen=True)
class Noise:
    """Gaussian or Poisson noise, new in every frame, its strength drifting.

    Attributes:
        gaussian: Probability of Gaussian noise; else Poisson.
        gaussian_sigma: Standard deviation, in steps of 8 bits.
        poisson_scale: Multiple of the noise of a sensor that counts one photon per step of 8 bits.
        gray: Probability that all three channels get the same noise.
        gaussian_sigma_step: Largest change per frame; likewise ``poisson_scale_step``.
        probability: That a clip is made noisy at all.
    """

    gaussian: float = 0.5
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    gray: float = 0.4
    gaussian_sigma_step: float = 0.1
    poisson_scale_step: float = 0.005
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_range("gaussian_sigma", self.gaussian_sigma, above=None)
        _check_range("poisson_scale", self.poisson_scale, above=None)
        for probability in (self.gaussian, self.gray, self.probability):
            _check_probability(probability)


@dataclass(frozen=True)
class Jpeg:
    """JPEG compression of every frame.

    Attributes:
        quality: Of libjpeg, 1 to 100.
        quality_step: Largest change per frame.
        probability: That a clip is compressed with JPEG at all.
    """

    quality: Range = (30.0, 95.0)
    quality_step: float = 3.0
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_range("quality", self.quality, above=0, up_to=100)
        _check_probability(self.probability)


@dataclass(frozen=True)
class Codec:
    """Compression of the whole clip with a real video encoder at a target bit rate.

    Attributes:
        codecs: Probability of each encoder, FFmpeg's names; they sum to 1. The paper lists libx264, h264 and mpeg4 with
            a third each, and h264 is libx264.
        bits: Bits per frame for an original of 256 x 256, the paper's crop (LR of 64 x 64, 1e4 to 1e5 bit/s at one
            frame per second; ours run at 25, with the same bits for each). Scaled with the pixels of the original, so
            that a crop looks the same at every size.
        probability: That a clip is encoded at all.
    """

    codecs: dict[str, float] = field(default_factory=lambda: {"libx264": 2 / 3, "mpeg4": 1 / 3})
    bits: Range = (1e4, 1e5)
    probability: float = 1.0

    def __post_init__(self) -> None:
        _check_table("codecs", self.codecs, CODECS)
        _check_range("bits", self.bits, above=0)
        _check_probability(self.probability)


@dataclass(frozen=True)
class DegradationRound:
    """One round: blur, resize, noise, JPEG, codec, in this order. The defaults are the paper's first round."""

    blur: Blur = field(default_factory=Blur)
    resize: Resize = field(default_factory=Resize)
    noise: Noise = field(default_factory=Noise)
    jpeg: Jpeg = field(default_factory=Jpeg)
    codec: Codec = field(default_factory=Codec)


@dataclass(frozen=True)
class DegradationSettings:
    """All settings of a degradation.

    Attributes:
        first: The first round.
        second: The second; its codec and the reduction to the final size come in random order.
        sinc: The blur after that reduction.
    """

    first: DegradationRound
    second: DegradationRound
    sinc: Blur


def _check_table(name: str, table: Mapping[str, float], known: Iterable[str]) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise ValueError(f"{name} names {', '.join(unknown)}: expected some of {', '.join(known)}")
    if any(value < 0 for value in table.values()) or abs(sum(table.values()) - 1) > 1e-6:
        raise ValueError(f"{name}={dict(table)}: expected probabilities that sum to 1")


def _check_range(name: str, bounds: Range, *, above: float | None, up_to: float = float("inf")) -> None:
    low, high = bounds
    if low > high or low < 0 or high > up_to or (above is not None and low <= above):
        limits = ("at least 0" if above is None else f"above {above}") + ("" if up_to > 1e9 else f", up to {up_to:g}")
        raise ValueError(f"{name}={tuple(bounds)}: expected (lowest, highest), {limits}")


def _check_probability(value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"probability {value}: expected a number in [0, 1]")


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

_NOTHING = DegradationRound(
    blur=Blur(probability=0.0),
    resize=Resize(probability=0.0),
    noise=Noise(probability=0.0),
    jpeg=Jpeg(probability=0.0),
    codec=Codec(probability=0.0),
)

LIGHT = DegradationSettings(
    first=DegradationRound(
        blur=Blur(kernels={"iso": 1.0}, sigma=(0.2, 1.4), probability=0.8),
        resize=Resize(probability=0.0),
        noise=Noise(gaussian=1.0, gaussian_sigma=(0.5, 5.0), probability=0.8),
        jpeg=Jpeg(probability=0.0),
        codec=Codec(codecs={"libx264": 1.0}, bits=(6e3, 8e4), probability=0.9),
    ),
    second=_NOTHING,
    sinc=Blur(probability=0.0),
)
"""A sharp video that was made small once: a little blur and noise, one reduction, H.264."""

PRESETS = {"realbasicvsr": REALBASICVSR, "mild": MILD, "light": LIGHT}
