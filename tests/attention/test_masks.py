import pytest
import torch

from flashvsr.attention import causal_slot_mask, segment_mask, window_mask


@pytest.mark.parametrize(("key", "boundary"), [("local", "truncated"), ("local_shifted", "preserved")])
def test_window_equals_the_released_mask(golden, key, boundary):
    for case in golden("masks_rope_windows.pt")[key]:
        grid, window = (case["block_h"], case["block_w"]), (case["win_h"], case["win_w"])
        assert torch.equal(window_mask(grid, window, boundary=boundary), case["mask"]), (grid, window)


def test_a_preserved_window_is_full_everywhere_and_a_truncated_one_is_not():
    preserved = window_mask((5, 7), (3, 3), boundary="preserved")
    assert (preserved.sum(1) == 9).all()
    truncated = window_mask((5, 7), (3, 3))
    assert truncated.sum(1).min() == 4
    assert truncated.diagonal().all()


def test_a_preserved_window_larger_than_the_grid_sees_all_of_it():
    assert window_mask((2, 3), (11, 11), boundary="preserved").all()


def test_an_even_window_reaches_one_further_up_and_left():
    row = window_mask((1, 5), (1, 2))[2]
    assert row.tolist() == [False, True, True, False, False]


def test_slots_see_themselves_a_bounded_past_and_the_first_three_one_another():
    mask = causal_slot_mask(6, history=2)
    seen = [row.nonzero()[:, 0].tolist() for row in mask]
    assert seen == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]


def test_without_a_bound_a_slot_sees_all_of_its_past_and_nothing_of_its_future():
    mask = causal_slot_mask(5, first_slots=1, blocks_per_slot=2)
    assert mask.shape == (10, 10)
    assert torch.equal(mask[::2, ::2], torch.ones(5, 5, dtype=torch.bool).tril())


def test_segments_do_not_see_each_other():
    assert segment_mask([1, 2]).tolist() == [[True, False, False], [False, True, True], [False, True, True]]


def test_sizes_that_make_no_sense_are_refused_by_value():
    with pytest.raises(ValueError, match=r"window \(0, 3\)"):
        window_mask((4, 4), (0, 3))
    with pytest.raises(ValueError, match="'wrapped'"):
        window_mask((4, 4), (3, 3), boundary="wrapped")
    with pytest.raises(ValueError, match="got 4, 3, 1, -1"):
        causal_slot_mask(4, -1)
    with pytest.raises(ValueError, match=r"\[2, 0\]"):
        segment_mask([2, 0])
