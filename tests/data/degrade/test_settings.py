import pytest

from flashvsr.data.degrade.settings import MILD, REALBASICVSR, Blur, Codec, DegradationRound, Jpeg, Noise, Resize


def test_the_defaults_are_the_published_ones():
    first, second = REALBASICVSR.first, REALBASICVSR.second
    assert first == DegradationRound()
    assert first.blur.sizes == second.blur.sizes == (7, 9, 11, 13, 15, 17, 19, 21)
    assert (first.blur.sigma, second.blur.sigma) == ((0.2, 3.0), (0.2, 1.5))
    assert (first.blur.probability, second.blur.probability, REALBASICVSR.sinc.probability) == (1.0, 0.8, 0.8)
    assert (first.resize.modes, second.resize.modes) == ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3))
    assert (first.resize.scale, second.resize.scale) == ((0.15, 1.5), (0.3, 1.2))
    assert (first.resize.step, second.resize.step) == (0.015, 0.03)
    assert (first.noise.gaussian_sigma, second.noise.gaussian_sigma) == ((1.0, 30.0), (1.0, 25.0))
    assert (first.noise.poisson_scale, second.noise.poisson_scale) == ((0.05, 3.0), (0.05, 2.5))
    assert first.jpeg == second.jpeg == Jpeg(quality=(30, 95), quality_step=3)
    assert first.codec == second.codec == Codec(bits=(1e4, 1e5))


def test_mild_is_milder():
    for mild, full in ((MILD.first, REALBASICVSR.first), (MILD.second, REALBASICVSR.second)):
        assert mild.blur.sigma[1] < full.blur.sigma[1]
        assert mild.resize.scale[0] > full.resize.scale[0]
        assert mild.noise.gaussian_sigma[1] < full.noise.gaussian_sigma[1]
        assert mild.jpeg.quality[0] > full.jpeg.quality[0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Blur(kernels={"box": 1.0}), "box: expected some of iso"),
        (lambda: Blur(kernels={"iso": 0.5}), "sum to 1"),
        (lambda: Blur(sigma=(0.0, 1.0)), "sigma.*above 0"),
        (lambda: Blur(sizes=(8,)), "odd"),
        (lambda: Blur(omega=(1.0, 4.0)), "omega"),
        (lambda: Resize(scale=(1.2, 1.5)), "holds 1"),
        (lambda: Noise(gray=2), "probability 2"),
        (lambda: Noise(gaussian_sigma=(3, 1)), "lowest, highest"),
        (lambda: Jpeg(quality=(50, 120)), "up to 100"),
        (lambda: Codec(codecs={"h265": 1.0}), "h265: expected some of libx264"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
