"""Metrics: known answers, torchmetrics' own figures, and what has none."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from flashvsr.evaluate import ClipMeter, luma_bt601, missing_metrics
from flashvsr.evaluate.metrics import GROUND_TRUTH


def _clip(frames: int, height: int = 64, width: int = 80, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)[0]
    still = picture.mul(200).add(20).to(torch.uint8)
    return torch.stack([still.roll(t, dims=2) for t in range(frames)])


def _measure(truth, ours, metrics, **options):
    meter = ClipMeter(["ours"], metrics, **options)
    for t in range(len(truth)):
        meter.add(truth[t], {"ours": ours[t]})
    return meter.result(), meter.notes


def test_an_identical_video_is_perfect_and_changes_as_the_ground_truth_does():
    clip = _clip(3)
    figures, _ = _measure(clip, clip, ("psnr", "ssim", "warping"))
    ours = figures["ours"]
    assert ours["psnr_y"] == ours["psnr_rgb"] == math.inf
    assert ours["ssim_y"] == pytest.approx(1, abs=1e-6) and ours["ssim_rgb"] == pytest.approx(1, abs=1e-6)
    assert ours["warp_error"] == figures[GROUND_TRUTH]["warp_error"]


def test_a_constant_offset_gives_the_psnr_computed_by_hand():
    clip = _clip(2)
    figures, _ = _measure(clip, clip + 10, ("psnr",))
    assert figures["ours"]["psnr_rgb"] == pytest.approx(20 * math.log10(255 / 10), abs=1e-5)
    luma_offset = 10 * (65.481 + 128.553 + 24.966) / 255
    assert figures["ours"]["psnr_y"] == pytest.approx(20 * math.log10(255 / luma_offset), abs=1e-4)


@pytest.mark.parametrize("offset", [1, 5, 51, 255])
def test_a_constant_offset_d_is_20_log_255_over_d_decibels(offset):
    black = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    figures, _ = _measure(black, black + offset, ("psnr",))
    assert figures["ours"]["psnr_rgb"] == pytest.approx(20 * math.log10(255 / offset), abs=1e-4)


def test_a_shifted_frame_gives_the_psnr_and_ssim_computed_by_hand():
    columns = torch.tensor([0, 0, 255, 255], dtype=torch.uint8).repeat(8)
    stripes = columns.expand(2, 3, 32, 32)
    figures, _ = _measure(stripes, stripes.roll(1, 3), ("psnr", "ssim"))
    assert figures["ours"]["psnr_rgb"] == pytest.approx(10 * math.log10(2), abs=1e-5), "every second pixel is wrong"
    assert abs(figures["ours"]["ssim_rgb"]) < 0.01, "a quarter of a period apart, they do not correlate"
    figures, _ = _measure(stripes, stripes.roll(2, 3), ("psnr", "ssim"))
    assert figures["ours"]["psnr_rgb"] == pytest.approx(0, abs=1e-5) and figures["ours"]["ssim_rgb"] < -0.9


def test_a_video_late_by_one_frame_gives_the_psnr_of_one_step():
    ramp = (torch.arange(5) * 10 + 20).to(torch.uint8).view(5, 1, 1, 1).expand(5, 3, 16, 16)
    figures, _ = _measure(ramp[1:], ramp[:-1], ("psnr",))
    assert figures["ours"]["psnr_rgb"] == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)


def test_nothing_is_cropped_at_the_border():
    clip = _clip(1)
    spoilt = clip.clone()
    spoilt[..., :2] = 255 - spoilt[..., :2]
    figures, _ = _measure(clip, spoilt, ("psnr", "ssim"))
    whole = peak_signal_noise_ratio(spoilt.double() / 255, clip.double() / 255, data_range=1.0)
    assert figures["ours"]["psnr_rgb"] == pytest.approx(float(whole), rel=1e-6) and math.isfinite(float(whole))


def test_luma_is_limited_range():
    black_and_white = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert (luma_bt601(black_and_white) * 255).flatten().tolist() == pytest.approx([16, 235], abs=1e-4)


def test_figures_are_the_means_of_torchmetrics_over_frames():
    truth = _clip(2, 192, 176)
    ours = (truth.int() + torch.randint(-20, 20, truth.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 255)
    figures, _ = _measure(truth, ours.to(torch.uint8), ("psnr", "ssim", "ms_ssim"))
    a, b = ours.float() / 255, truth.float() / 255
    for kind, x, y in (("rgb", a, b), ("y", luma_bt601(a), luma_bt601(b))):
        for name, metric in (
            ("psnr", peak_signal_noise_ratio),
            ("ssim", structural_similarity_index_measure),
            ("ms_ssim", multiscale_structural_similarity_index_measure),
        ):
            frames = [float(metric(x[t : t + 1], y[t : t + 1], data_range=1.0)) for t in range(2)]
            assert figures["ours"][f"{name}_{kind}"] == pytest.approx(sum(frames) / 2, rel=1e-5), name


def test_flicker_raises_the_warping_error_and_blur_lowers_it():
    truth = _clip(4)
    flicker = truth.clone()
    flicker[::2] += 8
    flat = truth.float().mean((2, 3), keepdim=True).expand(truth.shape).to(torch.uint8)
    meter = ClipMeter(["flicker", "flat"], ("warping",))
    for t in range(4):
        meter.add(truth[t], {"flicker": flicker[t], "flat": flat[t]})
    figures = {name: found["warp_error"] for name, found in meter.result().items()}
    assert figures["flicker"] == pytest.approx(1e3 * (8 / 255) ** 2, rel=0.1)
    assert figures["flat"] < figures[GROUND_TRUTH] + 1e-9


def test_a_single_frame_has_no_warping_error_and_a_small_one_no_multiscale_ssim():
    clip = _clip(1)
    figures, notes = _measure(clip, clip, ("warping", "ms_ssim"))
    assert figures["ours"] == {}
    assert "no motion" in notes["warp_error"] and "176 pixels" in notes["ms_ssim_y"]


def test_a_frame_of_another_size_or_type_is_refused():
    clip = _clip(1)
    with pytest.raises(ValueError, match=r"ours gave a frame \[3, 64, 40\]"):
        ClipMeter(["ours"], ("psnr",)).add(clip[0], {"ours": clip[0, :, :, :40]})
    with pytest.raises(ValueError, match=r"torch\.float32"):
        ClipMeter(["ours"], ("psnr",)).add(clip[0], {"ours": clip[0].float()})


def test_a_missing_metric_is_named_with_the_way_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert missing_metrics(("psnr", "ssim")) == {}
    reason = missing_metrics(("lpips",))["lpips"]
    assert str(tmp_path) in reason and "alexnet" in reason
    with pytest.raises(ValueError, match="got 'fid'"):
        missing_metrics(("fid",))


def test_lpips_is_zero_for_identical_frames_and_not_for_others(tmp_path, monkeypatch):
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.manual_seed(0)  # weights of no meaning: the network must be found, fed and averaged
    stand_in = torchvision.models.alexnet(weights=None).state_dict()
    torch.save(stand_in, tmp_path / "hub/checkpoints/alexnet-owt-7be5be79.pth")
    assert missing_metrics(("lpips",)) == {}
    clip = _clip(2)
    assert _measure(clip, clip, ("lpips",))[0]["ours"]["lpips"] == pytest.approx(0, abs=1e-7)
    assert _measure(clip, clip.flip(3), ("lpips",))[0]["ours"]["lpips"] > 1e-6


@pytest.mark.gpu
def test_a_gpu_gives_the_figures_of_the_cpu():
    truth, ours = _clip(3, 192, 192), _clip(3, 192, 192) + 5
    metrics = ("psnr", "ssim", "ms_ssim", "warping")
    cpu, gpu = _measure(truth, ours, metrics)[0], _measure(truth, ours, metrics, device="cuda")[0]
    assert gpu["ours"] == pytest.approx(cpu["ours"], rel=1e-4)
