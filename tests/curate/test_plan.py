from __future__ import annotations

from dataclasses import replace

from flashvsr.curate.plan import funnel, make_clips, make_shard_plans, merge, split_of
from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules

RULES = CurateRules()
SOURCES = [f"{number:064x}" for number in range(400)]


def segments(name, count, seconds=8, scene=0):
    return [
        Row(
            f"/x/{name}",
            name,
            sha256=name * 20,
            time_base="1/10",
            start=10 * seconds * part,
            end=10 * seconds * (part + 1),
            frames=10,
            scene=scene,
            part=part,
            scores={"motion": float(part)},
        )
        for part in range(count)
    ]


def test_neighbours_merge_up_to_the_longest_clip():
    runs = merge(segments("a", 9), RULES)
    assert [len(run) for run in runs] == [7, 2]
    assert runs[0][-1].span[1] - runs[0][0].span[0] == 56


def test_a_rejected_segment_and_a_cut_part_clips():
    rows = segments("a", 4)
    rows[1] = rows[1].rejected("motion", "still")
    rows[3] = replace(rows[3], scene=1)
    assert [[row.part for row in run] for run in merge(rows, RULES)] == [[0], [2], [3]]


def test_a_clip_has_the_span_the_frames_and_the_mean_scores_of_its_segments():
    (clip,) = make_clips(segments("a", 3), [], {"a": "CC0-1.0"}, 0, RULES)
    assert (clip.row.span, clip.row.frames, clip.row.scores) == ((0.0, 24.0), 30, {"motion": 1.0})
    assert (clip.parts, clip.licence) == ((0, 1, 2), "CC0-1.0")


def test_the_split_is_by_bytes_and_seed_and_near_the_share_asked_for():
    sides = split_of(SOURCES, [], 0, 0.1)
    assert 20 <= sum(side == "val" for side in sides.values()) <= 60
    assert split_of(SOURCES[::-1], [], 0, 0.1) == sides
    assert split_of(SOURCES[:50], [], 0, 0.1) == {source: sides[source] for source in SOURCES[:50]}
    assert split_of(SOURCES, [], 1, 0.1) != sides
    assert set(split_of(SOURCES, [], 0, 0.0).values()) == {"train"}


def test_neither_side_is_empty_when_two_sources_are_kept():
    for share in (0.001, 0.999):
        sides = split_of(SOURCES[:20], [], 0, share, SOURCES[5:9])
        assert {sides[source] for source in SOURCES[5:9]} == {"train", "val"}
        changed = [one for one in SOURCES[:20] if sides[one] != split_of(SOURCES[:20], [], 0, share)[one]]
        assert len(changed) == 1
    assert set(split_of(SOURCES[:20], [], 0, 0.0, SOURCES[5:9]).values()) == {"train"}
    assert set(split_of(SOURCES[:1], [], 0, 0.001, SOURCES[:1]).values()) == {"train"}
    pair = split_of(SOURCES[:2], [(SOURCES[0], SOURCES[1])], 0, 0.001, SOURCES[:2])
    assert set(pair.values()) == {"train"}, "they share pictures"


def test_sources_that_share_pictures_fall_on_one_side():
    links = [(SOURCES[number + 1], SOURCES[number]) for number in range(0, 398, 2)]
    sides = split_of(SOURCES, links, 0, 0.5)
    assert set(sides.values()) == {"train", "val"}
    assert all(sides[one] == sides[other] for one, other in links)
    assert any(split_of(SOURCES, [], 0, 0.5)[one] != split_of(SOURCES, [], 0, 0.5)[other] for one, other in links)


def test_shards_close_when_they_hold_enough_samples_or_seconds():
    rows = [row for number in range(6) for row in segments(f"{number}", 2, seconds=10)]
    rules = replace(RULES, val_fraction=0.0, shard_samples=4, shard_seconds=50.0)
    plans = make_shard_plans(make_clips(rows, [], {}, 0, rules), rules)
    assert [len(plan.clips) for plan in plans] == [2, 2, 2]
    rules = replace(rules, shard_seconds=1000.0)
    plans = make_shard_plans(make_clips(rows, [], {}, 0, rules), rules)
    assert [(plan.name, len(plan.clips)) for plan in plans] == [
        ("train/shard-00000.tar", 4),
        ("train/shard-00001.tar", 2),
    ]


def test_the_order_of_clips_does_not_depend_on_that_of_rows():
    rows = [row for number in range(6) for row in segments(f"{number}", 1)]
    assert make_clips(rows, [], {}, 0, RULES) == make_clips(rows[::-1], [], {}, 0, RULES)


def test_the_fingerprint_of_a_shard_changes_with_what_is_in_it_and_not_with_where_it_lies():
    def print_of(rows, rules=RULES, licences=None):
        return make_shard_plans(make_clips(rows, [], licences or {}, 0, rules), rules)[0].fingerprint(rules)

    rows = segments("a", 2)
    same = print_of([replace(row, path="/elsewhere/a", gap=0.1, timing={"probe": 1.0}) for row in rows])
    assert same == print_of(rows)
    others = [print_of(rows[:1]), print_of(rows, replace(RULES, crf=20.0)), print_of(rows, licences={"a": "MIT"})]
    assert len({same, *others}) == 4


def test_the_funnel_counts_sources_then_segments():
    rows = [*segments("a", 3), Row("/x/b", "b", end=3).rejected("probe", "small"), Row("/x/p", "p", kind="photo")]
    rows[0] = rows[0].rejected("quality", "dark")
    steps = {step["stage"]: (step["count"], step["photos"]) for step in funnel(rows, 3, 1, 24 / 3600)}
    assert steps["raw"] == (2, 1)
    assert steps["probe"] == (1, 1)
    assert steps["scenes"] == (3, 1)
    assert steps["quality"] == steps["motion"] == steps["kept"] == (2, 1)
