from collections import Counter

import pytest

from flashvsr.data.sampling import EpochPlan, ShardOrder, draw_epoch, validation_plans


def plan(rank=0, world=1, batch_size=4, **options):
    defaults = {"images": 0, "batches": 6, "photo_fraction": 0.5, "seed": 3}
    return EpochPlan((5, 7), batch_size=batch_size, rank=rank, world=world, **defaults | options)


def test_ranks_are_disjoint_and_their_union_is_the_batch_of_one_process():
    whole, parts = list(plan(images=2)), [list(plan(rank, 2, batch_size=2, images=1)) for rank in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(whole)
    for batch, first, second in zip(whole, *parts, strict=True):
        assert not set(first.clips) & set(second.clips)
        assert set(batch.clips) == set(first.clips) | set(second.clips)
        assert set(batch.images) == set(first.images) | set(second.images)


def test_a_split_batch_deals_out_its_clips_and_images_in_order():
    for images in (0, 3, 4, 9):
        batch = next(iter(plan(images=images)))
        parts = batch.split()
        assert [part.clips for part in parts] == [(clip,) for clip in batch.clips]
        assert sum((part.images for part in parts), ()) == batch.images
        assert {(part.epoch, part.batch) for part in parts} == {(batch.epoch, batch.batch)}


def test_seeds_differ_between_epochs_positions_and_runs():
    first, again, other = plan(), plan(span=lambda: range(6, 12)), plan(seed=4)
    seeds = [draw.seed for batch in first for draw in batch.clips]
    seeds += [draw.seed for batch in again for draw in batch.clips]
    seeds += [draw.seed for batch in other for draw in batch.clips]
    assert len(set(seeds)) == len(seeds) == 72
    assert list(plan()) == list(plan())


def test_the_mixture_is_as_asked_and_every_sample_comes_before_one_comes_again():
    draws = [draw for batch in plan(batches=500) for draw in batch.clips]
    assert abs(sum(draw.photo for draw in draws) / 2000 - 0.5) < 0.05
    for photo, count in ((False, 5), (True, 7)):
        numbers = [draw.number for draw in draws if draw.photo == photo]
        assert sorted(numbers[:count]) == list(range(count))
        counts = Counter(numbers).values()
        assert max(counts) - min(counts) <= 1
    assert not any(draw.photo for batch in plan(photo_fraction=0) for draw in batch.clips)
    assert all(draw.photo for batch in plan(photo_fraction=1) for draw in batch.clips)
    assert all(draw.photo for batch in plan(images=3) for draw in batch.images)


def test_a_pass_begins_at_the_position_and_goes_on_into_the_next_epoch():
    run = list(plan(span=lambda: range(18)))
    assert run[:6] == list(plan())
    resumed = plan(span=lambda: range(10, 16))
    assert list(resumed) == run[10:16]
    assert list(resumed) == run[10:16]


def test_validation_shows_every_sample_and_equally_many_to_every_process():
    ranks = [validation_plans((2, 3), 2, rank, 2) for rank in range(2)]
    assert [len(plans) for plans in ranks] == [2, 2]
    shown = [(draw.photo, draw.number) for plans in ranks for batch in plans for draw in batch.clips]
    assert len(shown) == 8
    assert set(shown) == {(False, 0), (False, 1), (True, 0), (True, 1), (True, 2)}


SHARDS = [n // 10 for n in range(200)]


def placed(at_once, seed=1, epoch=0):
    """Shards of the samples of an epoch of videos, in their order."""
    order = ShardOrder((SHARDS, []), 20, at_once)
    _, numbers = draw_epoch(seed, epoch, 200, (200, 0), 0.0, "clips", order)
    assert sorted(numbers) == list(range(200))
    return [SHARDS[number] for number in numbers], list(numbers)


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_an_order_of_shards_mixes_so_many_of_them_at_a_time(at_once):
    shards, numbers = placed(at_once)
    first = {shard: shards.index(shard) for shard in set(shards)}
    last = {shard: 199 - shards[::-1].index(shard) for shard in set(shards)}
    open_shards = [sum(first[shard] <= place <= last[shard] for shard in first) for place in range(200)]
    assert max(open_shards) <= at_once + 1
    assert at_once == 1 or max(open_shards) > at_once / 2
    assert numbers != sorted(numbers)
    assert list(dict.fromkeys(shards)) != sorted(set(shards))
    assert placed(at_once) == (shards, numbers)
    assert placed(at_once, epoch=1)[1] != numbers


def test_videos_and_photographs_go_through_the_shards_in_one_order():
    order = ShardOrder((SHARDS, SHARDS), 20, 1)
    photo, numbers = draw_epoch(1, 0, 400, (200, 200), 0.5, "clips", order)
    first = [list(dict.fromkeys(SHARDS[n] for n in numbers[photo == kind][:150])) for kind in (False, True)]
    assert first[0] == first[1]


def test_an_order_of_shards_does_not_depend_on_the_number_of_processes():
    order = ShardOrder((SHARDS, []), 20, 2)

    def draws(rank, world):
        options = {"images": 0, "batches": 5, "photo_fraction": 0.0, "seed": 1, "rank": rank, "world": world}
        plan = EpochPlan((200, 0), batch_size=4 // world, order=order, **options)
        return [batch.clips for batch in plan]

    parts = [draws(rank, 2) for rank in range(2)]
    for number, batch in enumerate(draws(0, 1)):
        assert set(batch) == {*parts[0][number], *parts[1][number]}
