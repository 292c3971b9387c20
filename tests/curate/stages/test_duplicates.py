from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from PIL import Image

from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules
from flashvsr.curate.stages.duplicates import hash_distances, mark_duplicates
from flashvsr.curate.stages.measure import hashes
from tests.curate.footage import pan, texture

RULES = CurateRules()


def row(name, seed, *, bits=0, size=(480, 640), scene=0, kind="video", **more):
    """A row with hashes of its own for every seed, some bits of them turned."""
    numbers = random.Random(seed)
    frames = tuple(numbers.getrandbits(64) ^ ((1 << bits) - 1) for _ in range(4 if kind == "video" else 1))
    return Row(f"/x/{name}", name, sha256=name, size=size, scene=scene, hashes=frames, kind=kind, **more)


def kept(rows):
    return {(one.name, one.part) for one in mark_duplicates(rows, RULES)[0] if one.stage is None}


def test_the_larger_of_two_that_look_alike_is_kept_whatever_their_order():
    rows = [row("a", 1), row("b", 1, bits=3, size=(720, 1280)), row("c", 2)]
    for order in (rows, rows[::-1], [rows[1], rows[2], rows[0]]):
        assert kept(order) == {("b", 0), ("c", 0)}


def test_any_order_keeps_the_same_of_a_chain():
    chain = [row(name, 1, bits=bits) for name, bits in (("a", 0), ("b", 5), ("c", 10), ("d", 15))]
    results = {frozenset(kept(random.Random(seed).sample(chain, 4))) for seed in range(20)}
    assert results == {frozenset({("a", 0), ("c", 0)})}


def test_of_equal_sizes_the_higher_bit_rate_is_kept():
    assert kept([row("a", 1, bit_rate=100), row("b", 1, bit_rate=200)]) == {("b", 0)}


def test_the_limit_decides():
    assert kept([row("a", 1), row("b", 1, bits=6)]) == {("a", 0)}
    assert kept([row("a", 1), row("b", 1, bits=7)]) == {("a", 0), ("b", 0)}


def test_neighbours_of_a_scene_may_look_alike_other_scenes_may_not():
    assert kept([row("a", 1, part=0), row("a", 1, part=1)]) == {("a", 0), ("a", 1)}
    assert kept([row("a", 1, part=0, start=0), row("a", 1, part=1, start=9, scene=1)]) == {("a", 0)}


def test_a_photograph_is_no_duplicate_of_a_video():
    video = row("a", 1)
    assert kept([video, replace(row("b", 1, kind="photo"), hashes=video.hashes[:1])]) == {("a", 0), ("b", 0)}


def test_what_was_rejected_before_duplicates_nothing_and_stays_as_it_was():
    bad = row("a", 1, size=(999, 999)).rejected("motion", "still")
    rows, linked = mark_duplicates([bad, row("b", 1)], RULES)
    assert rows[0] is bad
    assert rows[1].stage is None
    assert linked == []


def test_the_reason_names_the_one_that_is_kept_and_links_both():
    rows, linked = mark_duplicates([row("a", 1), row("b", 1)], RULES)
    assert rows[1].reason == "nearest 0 < 7 bits of 64: like a at 0.00 s"
    assert linked == [("b", "a")]


def test_distance_is_the_mean_over_frames_of_the_nearest_and_symmetric():
    one = np.array([0, 0xFF], np.uint64)
    many = np.array([[0xFF, 0], [0, 0], [0xF, 0xF]], np.uint64)
    assert hash_distances(one, many).tolist() == [0, 4, 4]


def test_compression_and_size_hardly_change_a_hash_and_another_picture_does():
    picture = texture(1)[:200, :300]
    small = np.asarray(Image.fromarray(picture).resize((150, 100)))
    one, two, other = (hashes(array[None])[0] for array in (picture, small, texture(2)[:200, :300]))
    assert (one ^ two).bit_count() <= 4
    assert (one ^ other).bit_count() >= 14
    assert len(hashes(np.stack(pan(1, 4)))) == 4
