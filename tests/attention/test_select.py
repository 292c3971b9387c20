import os
import subprocess
import sys

import pytest
import torch

from flashvsr.attention import BlockSelection, TokenGrid, causal_slot_mask, select_blocks, window_mask
from flashvsr.attention.select import select_from_means

DTYPES = {"torch.float32": torch.float32, "torch.bfloat16": torch.bfloat16}


def _heads(x: torch.Tensor, heads: int, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype).flatten(0, 1)[None].unflatten(2, (heads, -1)).transpose(1, 2)


def test_selection_equals_the_released_one(golden):
    for case in golden("masks_rope_windows.pt")["draft"]:
        dtype = DTYPES[case["compute_dtype"]]
        query, key = (_heads(case[name], case["nheads"], dtype) for name in ("q_w", "k_w"))
        mask = select_blocks(
            query,
            key,
            case["local_attn_mask"].bool(),
            budget=case["topk"],
            slots=case["seqlen"],
            block_size=case["q_w"].shape[1],
        )
        differing = (mask != case["mask"]).float().mean()
        assert differing <= (0.005 if dtype == torch.bfloat16 else 0.0), (case["topk"], dtype)


def _random(blocks: int, key_blocks: int, heads: int = 2, size: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, heads, blocks * size, 8), torch.randn(1, heads, key_blocks * size, 8)


def test_the_budget_counts_the_pairs_kept_by_each_head_and_slot():
    query, key = _random(12, 24)
    mask = select_blocks(query, key, torch.ones(6, 6, dtype=torch.bool), budget=17, slots=2, block_size=4)
    assert (mask.unflatten(2, (2, 6)).sum((3, 4)) == 17).all()


def test_rows_compete_so_that_some_get_more_than_others():
    query, key = _random(6, 6)
    mask = select_blocks(query * 4, key, torch.ones(6, 6, dtype=torch.bool), budget=12, block_size=4)
    assert mask.sum(3).unique().numel() > 1


def test_a_budget_that_covers_everything_drops_the_lowest_pair_as_released_and_none_by_the_other_rule():
    query, key = _random(4, 8)
    everything = torch.ones(4, 4, dtype=torch.bool)
    released = select_blocks(query, key, everything, budget=1000, block_size=4)
    assert (released.sum((2, 3)) == 31).all()
    kept = select_blocks(query, key, everything, budget=1000, rule="keep_all_when_covered", block_size=4)
    assert kept.all()


def test_a_window_leaves_all_visible_pairs_when_the_budget_covers_them():
    query, key = _random(9, 18)
    window = window_mask((3, 3), (2, 2))
    mask = select_blocks(query, key, window, budget=10_000, block_size=4)
    assert torch.equal(mask, window.repeat(1, 2).expand_as(mask))


@pytest.mark.parametrize("rule", ["released", "keep_all_when_covered"])
@pytest.mark.parametrize("budget", [0, 20, 95, 10_000])
@pytest.mark.parametrize("history", [1, 2, 3, 5])
def test_whole_sequence_and_chunks_choose_the_same(history, budget, rule):
    per_slot, slots = 6, 7
    query, key = _random(per_slot * slots, per_slot * slots)
    window = window_mask((2, 3), (3, 1))
    allowed = torch.kron(causal_slot_mask(slots, history), window)
    whole = select_blocks(query, key, allowed, budget=budget, slots=slots, rule=rule, block_size=4)
    size = per_slot * 4
    for first, count in [(0, 3), *((slot, 1) for slot in range(3, slots))]:
        seen = max(0, first - history)
        chunk = select_blocks(
            query[:, :, first * size : (first + count) * size],
            key[:, :, seen * size : (first + count) * size],
            window,
            budget=budget,
            slots=count,
            rule=rule,
            block_size=4,
        )
        rows = slice(first * per_slot, (first + count) * per_slot)
        assert torch.equal(whole[:, :, rows, seen * per_slot : (first + count) * per_slot], chunk), first
        assert whole[:, :, rows].sum() == chunk.sum()


def test_products_beyond_the_largest_half_choose_as_fp32_does():
    query = torch.full((1, 1, 6 * 4, 8), 128.0)
    key = (64.0 + 8 * torch.arange(12)).repeat_interleave(4)[:, None].expand(1, 1, -1, 8)  # products from 65536 on
    chosen = [
        select_blocks(query.to(dtype), key.to(dtype), torch.ones(6, 12, dtype=torch.bool), budget=17, block_size=4)
        for dtype in (torch.float32, torch.float16)
    ]
    assert chosen[1].any()
    assert torch.equal(*chosen)


def test_selection_keeps_nothing_for_a_backward_pass():
    query, key = (x.requires_grad_() for x in _random(4, 8))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape), lambda x: x):
        select_blocks(query, key, torch.ones(4, 8, dtype=torch.bool), budget=9, block_size=4)
    assert kept == []


@pytest.mark.parametrize("whole", [False, True])
def test_pairs_tied_with_the_first_one_left_out_fall_out_too(whole):
    query = torch.ones(1, 1, 2 * 4, 8)
    key = torch.tensor([3.0, 1.0, 1.0, 0.0]).repeat_interleave(4)[:, None].expand(1, 1, -1, 8)
    allowed = torch.ones(2, 4 if whole else 2, dtype=torch.bool)
    expected = {0: 0, 1: 0, 2: 2, 3: 2, 5: 2, 6: 6, 7: 6, 8: 6}  # two rows: 3, 3, 1, 1, 1, 1, 0, 0
    for budget, kept in expected.items():
        mask = select_blocks(query, key, allowed, budget=budget, block_size=4)
        assert mask.sum() == kept, budget


def test_a_row_that_sees_nothing_keeps_nothing():
    query, key = _random(4, 4)
    allowed = torch.ones(4, 4, dtype=torch.bool)
    allowed[1] = False
    mask = select_blocks(query, key, allowed, budget=9, block_size=4)
    assert not mask[:, :, 1].any()
    assert (mask.sum((2, 3)) == 9).all()


def test_the_budget_follows_the_order_of_the_released_arithmetic():
    selection = BlockSelection(sparse_ratio=2.0)
    assert selection.budget(TokenGrid(2, 48, 88)) == int(66 * 66 * (2.0 * 768 * 1280 / (768 * 1408))) - 1 == 7919
    assert selection.budget(TokenGrid(2, 40, 88)) == 6598  # 60 * 2 * 55 - 1 would be 6599


def test_bad_arguments_are_refused_by_value():
    query, key = _random(4, 4)
    everything = torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="'best'"):
        select_blocks(query, key, everything, budget=1, rule="best", block_size=4)
    with pytest.raises(ValueError, match="got -1"):
        select_blocks(query, key, everything, budget=-1, block_size=4)
    with pytest.raises(ValueError, match=r"allowed is \[4, 4\]; got \[3, 3\]"):  # one form, said once
        select_blocks(query, key, everything[:3, :3], budget=1, block_size=4)
    with pytest.raises(ValueError, match=r"allowed is \[4, 4\], or \[2, 2\] for every pair of slots; got \[3, 3\]"):
        select_blocks(query, key, everything[:3, :3], budget=1, slots=2, block_size=4)
    with pytest.raises(ValueError, match="whole blocks of 128"):
        select_blocks(query, key, everything, budget=1)
    with pytest.raises(ValueError, match="sparse_ratio is positive, got 0"):
        BlockSelection(sparse_ratio=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("grid_hw", "slots", "key_slots", "budget"), [((6, 11), 1, 4, 3000), ((6, 11), 3, 3, 9)])
def test_the_kernels_choose_what_plain_pytorch_does(dtype, grid_hw, slots, key_slots, budget):
    torch.manual_seed(0)
    per_slot = grid_hw[0] * grid_hw[1]
    query, key = (torch.randn(2, 3, per_slot * n, 128, device="cuda", dtype=dtype) for n in (slots, key_slots))
    allowed = window_mask(grid_hw, (5, 5)).cuda()
    allowed[7] = False
    plain, kernel = (
        select_from_means(query, key, allowed, budget=budget, slots=slots, impl=impl) for impl in ("plain", "triton")
    )
    assert 0 < plain.sum() < allowed.sum() * 6 * slots * key_slots
    assert (plain != kernel).float().mean() < 1e-4


def test_named_kernels_never_fall_back_and_an_unknown_one_is_refused():
    means = torch.randn(1, 1, 4, 8)
    everything = torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="needs a GPU"):
        select_from_means(means, means, everything, budget=3, impl="triton")
    with pytest.raises(ValueError, match="'radix'"):
        select_from_means(means, means, everything, budget=3, impl="radix")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels themselves were tested")
def test_the_kernels_equal_plain_pytorch_under_the_interpreter():
    code = """
import torch
from flashvsr.attention import window_mask
from flashvsr.attention.select import select_from_means
from flashvsr.kernels import select as triton_select

torch.manual_seed(0)
cases = ((1, 4, 17), (3, 3, 9), (2, 4, 0), (1, 2, 10**6))
for dtype, programs in ((torch.float32, 1024), (torch.float32, 8), (torch.float16, 1024)):
    for slots, keys, budget in cases if (dtype, programs) == (torch.float32, 1024) else cases[1:2]:
        triton_select.PROGRAMS = programs
        allowed = window_mask((2, 3), (2, 3))
        allowed[2] = False
        query, key = (2 * torch.randn(2, 1, 6 * n, 16, dtype=dtype) for n in (slots, keys))
        plain = select_from_means(query, key, allowed, budget=budget, slots=slots)
        kernel = triton_select.launch_select(query / 8 @ key.transpose(2, 3), 0.5, allowed, budget)
        assert torch.equal(plain, kernel), (dtype, programs, slots, keys, budget)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
