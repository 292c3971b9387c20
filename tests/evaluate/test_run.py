"""A whole evaluation on toy clips."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch

from flashvsr.evaluate import BASELINES, ReferenceClip, bicubic_lr, clip_seed, evaluate

METRICS = ("psnr", "ssim")


def _clip(name: str = "clip", frames: int = 2) -> ReferenceClip:
    coarse = torch.rand(frames, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    sharp = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bilinear")
    return ReferenceClip(name, sharp.mul(255).to(torch.uint8))


def test_every_method_sees_the_same_lr_and_is_told_its_seed():
    seen = []

    def method(lr, seed):
        seen.append((lr, seed))
        return BASELINES["bicubic"](lr, seed)

    results = evaluate([_clip()], {"one": method, "two": method}, metrics=METRICS, seeds=(0, 7))
    assert torch.equal(seen[0][0], bicubic_lr(_clip().frames)) and torch.equal(seen[0][0], seen[1][0])
    assert [seed for _, seed in seen] == [clip_seed("clip", 0)] * 2 + [clip_seed("clip", 7)] * 2
    ours = [(row.seed, row.method) for row in results.rows]
    assert ours == [(seed, name) for seed in (0, 7) for name in ("one", "two", "ground truth")]


def test_the_degradation_is_seeded_by_clip_and_seed_alone():
    seeds = []

    def degrade(frames, seed):
        seeds.append(seed)
        return bicubic_lr(frames)

    evaluate([_clip("a"), _clip("b")], BASELINES, degrade, metrics=("psnr",), seeds=(0, 1))
    evaluate([_clip("b")], BASELINES, degrade, metrics=("psnr",))
    assert len(set(seeds[:4])) == 4 and seeds[4] == seeds[2]


def test_a_run_reproduces_to_the_last_digit():
    runs = [evaluate([_clip()], BASELINES, metrics=(*METRICS, "warping")) for _ in range(2)]
    assert runs[0].rows == runs[1].rows and runs[0].rows[0].figures["psnr_y"] > 10


def test_clips_read_ahead_come_in_order_and_give_the_same():
    def slow(name):
        time.sleep(0.05 if name == "a" else 0)
        return _clip(name)

    clips = [partial(slow, name) for name in "abcd"]
    rows = evaluate(clips, BASELINES, metrics=("psnr",), workers=3).rows
    assert rows == evaluate([_clip(name) for name in "abcd"], BASELINES, metrics=("psnr",)).rows


def test_lanczos_and_bicubic_differ():
    rows = {row.method: row.figures for row in evaluate([_clip()], BASELINES, metrics=METRICS).rows}
    assert rows["lanczos"]["psnr_y"] != rows["bicubic"]["psnr_y"]


def test_wrong_sizes_are_refused_by_the_name_of_who_made_them():
    with pytest.raises(ValueError, match=r"half gave \[2, 3, 16, 20\]"):
        evaluate([_clip()], {"half": lambda lr, seed: lr}, metrics=METRICS)
    with pytest.raises(ValueError, match="the degradation gave"):
        evaluate([_clip()], BASELINES, lambda frames, seed: frames, metrics=METRICS)


def test_a_clip_without_a_figure_is_listed_with_the_reason():
    results = evaluate([_clip("still", frames=1)], BASELINES, metrics=("psnr", "warping"))
    assert results.skipped == {"warp_error: a single frame has no motion": ["still"]}
