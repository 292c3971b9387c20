"""VMAF in windows of frames."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("vmaf_torch", reason="vmaf-torch is not installed: VMAF was not checked")

from torchmetrics.functional.video import video_multi_method_assessment_fusion

from flashvsr.evaluate.vmaf import WINDOW, Vmaf


def _clips(frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(frames, 3, 16, 20, generator=generator)
    truth = torch.nn.functional.interpolate(coarse, size=(64, 80), mode="bilinear")
    ours = torch.nn.functional.avg_pool2d(truth, 5, 1, 2)
    return truth.mul(255).to(torch.uint8), ours.mul(255).to(torch.uint8)


@pytest.mark.parametrize("frames", [1, WINDOW, WINDOW + 1, WINDOW + 2, 2 * WINDOW + 3])
def test_windows_give_the_score_of_the_whole_clip(frames):
    truth, ours = _clips(frames)
    meter = Vmaf()
    for t in range(frames):
        meter.add(truth[t], ours[t])
    whole = [clip.float().div(255).transpose(0, 1)[None] for clip in (ours, truth)]
    expected = video_multi_method_assessment_fusion(*whole).clamp(0, 100).mean()
    assert float(meter.result()) == pytest.approx(float(expected), abs=1e-3)
    assert 0 < float(expected) < 95


def test_memory_does_not_grow_with_the_clip():
    truth, ours = _clips(4 * WINDOW)
    meter = Vmaf()
    held = []
    for t in range(len(truth)):
        meter.add(truth[t], ours[t])
        held.append(len(meter._truth))
    assert max(held) <= WINDOW + 2


def test_identical_frames_score_no_more_than_100():
    truth, _ = _clips(3)
    meter = Vmaf()
    for frame in truth:
        meter.add(frame, frame)
    assert 90 < float(meter.result()) <= 100
