"""The kernel distance over clips: its formula, no bias, and an interval that holds what it says."""

import pytest
import torch

from flashvsr.evaluate.features import polynomial_kernel
from flashvsr.evaluate.intervals import half_width
from flashvsr.evaluate.pooled_distance import PatchPool, pooled_distances

FEW = "fewer than 5000, so take more frames or clips before relying on it"


def _clips(generator, count=6, shift=0.0, parts=20):
    """Features of the parts of clips, each of which has a look of its own; and of a method that moves them."""
    looks = torch.randn(count, 1, 8, generator=generator)
    truth = [look + torch.randn(parts, 8, generator=generator) for look in looks]
    ours = [look + shift + torch.randn(parts, 8, generator=generator) for look in looks]
    return ours, truth


def _mean(a, b):
    return float(polynomial_kernel(a.double(), b.double()).mean())


def test_the_mean_is_that_over_all_pairs_of_different_clips():
    ours, truth = _clips(torch.Generator().manual_seed(0), count=4, shift=0.3)
    values = pooled_distances(ours, truth)
    total = 0.0
    for i in range(4):
        for j in range(4):
            if i != j:
                total += _mean(ours[i], ours[j]) + _mean(truth[i], truth[j])
                total -= _mean(ours[i], truth[j]) + _mean(ours[j], truth[i])
    assert len(values) == 4
    assert sum(values) / 4 == pytest.approx(total / 12)


def test_the_values_are_those_of_a_jackknife_that_leaves_out_one_clip():
    ours, truth = _clips(torch.Generator().manual_seed(1), count=5, shift=0.3)
    values = pooled_distances(ours, truth)
    whole = sum(values) / 5
    for left in range(5):
        kept = [index for index in range(5) if index != left]
        rest = pooled_distances([ours[index] for index in kept], [truth[index] for index in kept])
        assert values[left] == pytest.approx(5 * whole - 4 * sum(rest) / 4)


def test_one_distribution_has_no_distance_and_its_interval_holds_zero():
    generator = torch.Generator().manual_seed(2)
    means, held = [], 0
    for _ in range(60):
        values = pooled_distances(*_clips(generator))
        means.append(sum(values) / len(values))
        held += abs(means[-1]) <= half_width(values)
    means = torch.tensor(means)
    assert abs(float(means.mean())) < 3 * float(means.std()) / 60**0.5
    assert held >= 50  # of 60, at 95 %


def test_a_method_further_away_has_a_larger_distance():
    generator = torch.Generator().manual_seed(3)
    near, far = (sum(pooled_distances(*_clips(generator, shift=shift))) / 6 for shift in (0.1, 1.0))
    assert far > 5 * abs(near)


def test_two_clips_are_too_few():
    with pytest.raises(ValueError, match="a distance over 2 clips: expected at least 3"):
        pooled_distances([torch.ones(1, 2)] * 2, [torch.ones(1, 2)] * 2)


def test_a_pool_joins_seeds_takes_a_part_of_long_clips_and_says_how_much_it_saw():
    generator = torch.Generator().manual_seed(4)

    def features(count):
        return {name: torch.randn(count, 8, generator=generator) for name in ("x", "truth")}

    pool = PatchPool(["x"], "truth")
    for clip in "aabbcc":
        pool.add(clip, features(10))
    pool.add("small", features(0))
    found, notes = pool.result()
    assert list(found["x"]) == ["a", "b", "c"]
    assert notes == [f"pooled lite-KID over 60 parts of 3 clips: {FEW}"]
    for clip in "abc":
        pool.add(clip, features(2500))  # every third is taken
    assert pool.result()[1] == [f"pooled lite-KID over {60 + 3 * 834} parts of 3 clips: {FEW}"]
    assert PatchPool(["x"], "truth").result() == ({}, ["no pooled_kid: 0 clips have parts, and it needs 3"])
