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


class _Other:
    """Keeps the LR frames of the other clips that it is given."""

    needs_other = True

    def __init__(self):
        self.seen = []

    def __call__(self, lr, seed, other):
        self.seen.append(other)
        return BASELINES["bicubic"](lr, seed)


def _flat(name: str, level: int, frames: int = 2) -> ReferenceClip:
    return ReferenceClip(name, torch.full((frames, 3, 64, 80), level, dtype=torch.uint8))


def test_a_method_that_needs_another_clip_gets_that_of_the_next_one_and_of_the_same_seed():
    method, levels = _Other(), {"a": 10, "b": 20, "c": 30}

    def degrade(frames, seed):
        return bicubic_lr(frames) + seed % 2

    clips = [_flat(name, level) for name, level in levels.items()]
    results = evaluate(clips, {"x": method}, degrade, metrics=("psnr",), seeds=(0, 1))
    assert [row.clip for row in results.rows if row.method == "x"] == ["a", "a", "b", "b", "c", "c"]
    expected = [levels[other] + clip_seed(other, seed) % 2 for other in "bca" for seed in (0, 1)]
    assert [int(other.unique()) for other in method.seen] == expected


def test_a_single_clip_has_no_other():
    with pytest.raises(ValueError, match="latents of another clip need at least two clips"):
        evaluate([_clip()], {"x": _Other()}, metrics=("psnr",))


def test_the_change_of_an_ablation_is_how_much_its_frames_differ_from_those_of_its_model():
    class Brighter:
        compared_with = "plain"

        def __call__(self, lr, seed):
            return BASELINES["bicubic"](lr, seed) + 3

    methods = {"plain": BASELINES["bicubic"], "brighter": Brighter()}
    results = evaluate([_flat("a", 10)], methods, metrics=("psnr", "change"))
    assert results.compared_with == {"brighter": "plain"}
    changes = {row.method: row.figures.get("change") for row in results.rows}
    assert changes == {"plain": None, "brighter": 3.0, "ground truth": None}
