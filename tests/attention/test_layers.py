from functools import partial

import pytest
import torch

from flashvsr.attention import (
    BlockSelection,
    CrossAttention,
    FullAttention,
    KVCache,
    LocalSparseAttention,
    TokenGrid,
    rope_table,
)

ROWS, COLUMNS = 16, 24  # tokens: 2 x 3 blocks per slot
PER_SLOT = 2 * ROWS * COLUMNS


def _layer(**arguments) -> LocalSparseAttention:
    torch.manual_seed(0)
    return LocalSparseAttention(32, 2, window_hw=(3, 3), **{"sparse_ratio": 0.06, **arguments})


def _grid(slots: int, offset: int = 0) -> TokenGrid:
    return TokenGrid(2 * slots, ROWS, COLUMNS, offset)


def _rope(grid: TokenGrid) -> torch.Tensor:
    return rope_table(grid, 16, order="block")


@torch.no_grad()
@pytest.mark.parametrize("history", [0, 1, 2, 3])
def test_a_whole_sequence_equals_its_chunks(history):
    layer, slots = _layer(history=history), 6
    kept = []
    layer.selection.register_forward_hook(lambda module, args, out: kept.append(out.float().mean().item()))
    x = torch.randn(1, slots * PER_SLOT, 32)
    whole = layer(x, _grid(slots), _rope(_grid(slots)))
    assert 0.05 < kept[0] < 0.5  # sparse indeed
    cache = KVCache(1, history, PER_SLOT, 2, 16)
    chunks = []
    for first, count in [(0, 3), (3, 1), (4, 1), (5, 1)]:
        grid = _grid(count, 2 * first)
        chunks.append(layer(x[:, first * PER_SLOT : (first + count) * PER_SLOT], grid, _rope(grid), cache=cache))
        cache.advance(count)
    torch.testing.assert_close(torch.cat(chunks, 1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_longer_history_changes_the_output():
    layer, x, grid = _layer(), torch.randn(1, 5 * PER_SLOT, 32), _grid(5)
    short, long = (layer(x, grid, _rope(grid), history=history) for history in (1, 4))
    assert torch.equal(short[:, : 3 * PER_SLOT], long[:, : 3 * PER_SLOT])
    assert (short - long)[:, 4 * PER_SLOT :].abs().max() > 1e-4


@torch.no_grad()
def test_a_hook_on_the_selection_replays_given_masks():
    layer, x, grid = _layer(), torch.randn(1, PER_SLOT, 32), _grid(1)
    own = layer(x, grid, _rope(grid))
    nothing = layer.selection.register_forward_hook(lambda module, args, out: torch.zeros_like(out))
    out = layer(x, grid, _rope(grid))
    nothing.remove()
    torch.testing.assert_close(out, layer.o.bias.expand_as(out))
    assert torch.equal(layer(x, grid, _rope(grid)), own)


def test_gradients_reach_every_parameter():
    for layer in (_layer(), FullAttention(32, 2)):
        grid = _grid(1)
        layer(torch.randn(1, PER_SLOT, 32), grid, _rope(grid)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in layer.named_parameters() if n != "k.bias")


@torch.no_grad()
def test_packed_samples_equal_each_sample_alone():
    layer = FullAttention(32, 2, impl="sdpa")
    grids = [TokenGrid(1, 3, 5), TokenGrid(4, 2, 2)]
    samples = [torch.randn(1, grid.tokens, 32) for grid in grids]
    ropes = [rope_table(grid, 16) for grid in grids]
    lengths = [grid.tokens for grid in grids]
    packed = layer(torch.cat(samples, 1), grids[0], torch.cat(ropes), lengths=lengths).split(lengths, 1)
    for sample, grid, rope, out in zip(samples, grids, ropes, packed, strict=True):
        torch.testing.assert_close(out, layer(sample, grid, rope))


@torch.no_grad()
def test_cross_attention_broadcasts_one_prompt_over_the_batch():
    layer = CrossAttention(32, 2)
    context = layer.project_context(torch.randn(1, 5, 32))
    x = torch.randn(3, 7, 32)
    out = layer(x, context)
    torch.testing.assert_close(out[1:2], layer(x[1:2], context))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(LocalSparseAttention, 32, 3), "got 32 and 3"),
        (partial(LocalSparseAttention, 32, 2, history=-1), "got -1"),
        (partial(LocalSparseAttention, 32, 2, rule="mine"), "'mine'"),
        (partial(BlockSelection, (3, 3), "mirror"), "'mirror'"),
    ],
)
def test_bad_arguments_are_refused_by_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()
