import warnings
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
    crop_from_blocks,
    pad_to_blocks,
    partition_blocks,
    rope_table,
    unpartition_blocks,
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
        rope = rope_table(grid, 16, order=layer.order)
        layer(torch.randn(1, PER_SLOT, 32), grid, rope).square().sum().backward()
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
        (partial(BlockSelection, 11), r"window_hw is \(rows, columns\) in blocks, such as \(11, 11\); got 11"),
        (partial(BlockSelection, token_pixels=0), "at least 1, got 3 and 0"),
    ],
)
def test_bad_arguments_are_refused_by_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@torch.no_grad()
@pytest.mark.parametrize("chunks", [(6,), (3, 3), (4, 2), (3, 2, 1), (5, 1)])
@pytest.mark.parametrize("history", [0, 1, 3])
def test_any_cut_of_a_stream_into_chunks_gives_the_whole_sequence(chunks, history):
    layer, x, whole_grid = _layer(history=history), torch.randn(1, 6 * PER_SLOT, 32), _grid(6)
    whole = layer(x, whole_grid, _rope(whole_grid))
    cache, parts, first = KVCache(1, history, PER_SLOT, 2, 16), [], 0
    for count in chunks:
        grid = _grid(count, 2 * first)
        parts.append(layer(x[:, first * PER_SLOT : (first + count) * PER_SLOT], grid, _rope(grid), cache=cache))
        cache.advance(count)
        first += count
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_stream_that_goes_slot_by_slot_from_the_start_needs_a_layer_built_for_it():
    x, cache = torch.randn(1, 4 * PER_SLOT, 32), KVCache(1, 3, PER_SLOT, 2, 16)
    layer, slot_by_slot = _layer(), _layer(first_slots=1)
    whole = slot_by_slot(x, _grid(4), _rope(_grid(4)))
    parts = []
    for slot in range(4):
        grid = _grid(1, 2 * slot)
        part = x[:, slot * PER_SLOT : (slot + 1) * PER_SLOT]
        if slot == 1:
            with pytest.raises(ValueError, match="the first 3 slots see one another and come in one call"):
                layer(part, grid, _rope(grid), cache=cache)
        parts.append(slot_by_slot(part, grid, _rope(grid), cache=cache))
        cache.advance(1)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


def _refused(error, message, *, x=None, grid=None, rope=None, **arguments):
    grid = _grid(3) if grid is None else grid
    x = torch.randn(1, 3 * PER_SLOT, 32) if x is None else x
    with torch.no_grad(), pytest.raises(error, match=message):
        _layer()(x, grid, _rope(_grid(3)) if rope is None else rope, **arguments)


def test_a_grid_that_is_none_or_of_another_size_is_refused():
    _refused(TypeError, r"grid is a TokenGrid\(frames, rows, columns\), got \(6, 16, 24\)", grid=(6, 16, 24))
    _refused(ValueError, "x holds 2304 tokens and the grid 4x16x24 = 1536", grid=_grid(2))
    _refused(ValueError, r"x is \[B, N, 32\], got \[1, 2304, 16\]", x=torch.randn(1, 3 * PER_SLOT, 16))
    with pytest.raises(ValueError, match="a grid holds tokens"):
        TokenGrid(0, 8, 8)


def test_a_rope_table_of_another_size_or_order_is_refused():
    _refused(
        ValueError, "takes tokens in block order, the rope table is in raster order", rope=rope_table(_grid(3), 16)
    )
    _refused(ValueError, r"rope is \[2304, 8, 2\]", rope=_rope(_grid(2)))
    grid = _grid(1)
    with pytest.raises(ValueError, match="takes tokens in raster order, the rope table is in block order"):
        FullAttention(32, 2)(torch.randn(1, PER_SLOT, 32), grid, _rope(grid))


def test_a_chunk_that_does_not_continue_the_stream_of_its_cache_is_refused():
    cache = KVCache(1, 3, PER_SLOT, 2, 16)
    _refused(ValueError, "starts at frame 0 of the stream; its grid says frame_offset=2", grid=_grid(3, 2), cache=cache)
    _refused(ValueError, "sees 3 earlier slots and the cache keeps 2", cache=KVCache(1, 2, PER_SLOT, 2, 16))
    _refused(ValueError, "sees 1 earlier slots and the cache keeps 3", cache=cache, history=1)
    _refused(ValueError, "the cache has layers 0 to 0, got layer 1", cache=cache, layer=1)
    _refused(
        ValueError,
        r"the cache holds .*\(1, 128, 2, 16\), the chunk is \(1, 768, 2, 16\)",
        cache=KVCache(1, 3, 128, 2, 16),
    )
    layer, x, grid = _layer(), torch.randn(1, 3 * PER_SLOT, 32), _grid(3)
    with torch.no_grad():
        layer(x, grid, _rope(grid), cache=cache)
        with pytest.raises(
            RuntimeError, match=r"layer 0 has written 3 slots of this chunk, not 0: call advance\(slots\)"
        ):
            layer(x, grid, _rope(grid), cache=cache)
    with pytest.raises(ValueError, match=r"got 1, of a chunk of which layers wrote \[3\]"):
        cache.advance(1)
    cache.advance(3)
    _refused(ValueError, "call cache.advance", cache=cache)


def test_a_ratio_that_keeps_nothing_warns_once_and_pixels_of_a_token_are_an_argument():
    layer, x, grid = _layer(sparse_ratio=0.005), torch.randn(1, PER_SLOT, 32), _grid(1)
    with torch.no_grad(), pytest.warns(UserWarning, match=r"sparse_ratio=0.005 keeps no block of 2x3 per slot"):
        out = layer(x, grid, _rope(grid))
    assert torch.equal(out, layer.o.bias.expand_as(out))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x, grid, _rope(grid))
    quarter, whole = _layer(sparse_ratio=0.5, token_pixels=8), _layer(sparse_ratio=2.0)
    assert quarter.selection.budget(grid) == whole.selection.budget(grid)


@torch.no_grad()
@pytest.mark.parametrize("content", [(6, 13, 24), (5, 16, 21), (3, 9, 17)])
def test_padding_takes_no_part_whatever_it_holds(content):
    layer, x = (
        LocalSparseAttention(32, 2, window_hw=(9, 9), sparse_ratio=20.0, rule="keep_all_when_covered"),
        torch.randn(1, *content, 32),
    )
    grid = TokenGrid.padded(*content)
    padded, key_mask = pad_to_blocks(x)
    assert torch.equal(grid.key_mask(), key_mask) and key_mask.sum() == x[0, ..., 0].numel()
    outputs = []
    for junk in (0.0, 1e3, float("nan")):
        tokens = partition_blocks(padded).masked_fill(~key_mask[:, None], junk)
        out = layer(tokens, grid, _rope(grid), history=9)
        outputs.append(crop_from_blocks(unpartition_blocks(out, padded.shape[1:4]), content))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])
    dense = FullAttention(32, 2)
    dense.load_state_dict(layer.state_dict())
    raster = TokenGrid(*content)
    # The first three slots see one another and the budget covers all: everything attends to everything.
    expected = dense(x.flatten(1, 3), raster, rope_table(raster, 16)).unflatten(1, content)
    torch.testing.assert_close(outputs[0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_padded_stream_gives_what_its_padded_sequence_gives():
    layer, x = _layer(impl="gather"), torch.randn(1, 10, 13, 21, 32)
    grid, (padded, key_mask) = TokenGrid.padded(10, 13, 21), pad_to_blocks(x)
    tokens = partition_blocks(padded).masked_fill(~key_mask[:, None], float("nan"))
    whole = layer(tokens, grid, _rope(grid))
    cache, parts = KVCache(1, 3, PER_SLOT, 2, 16), []
    for first, count in ((0, 3), (3, 2)):
        part = TokenGrid.padded(2 * count, 13, 21, 2 * first)
        parts.append(layer(tokens[:, first * PER_SLOT : (first + count) * PER_SLOT], part, _rope(part), cache=cache))
        cache.advance(count)
    kept = torch.cat(parts, 1)[:, key_mask], whole[:, key_mask]
    assert kept[1].isfinite().all()
    torch.testing.assert_close(*kept, rtol=0, atol=1e-5)


def test_padding_of_a_whole_block_and_a_crop_beyond_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"leaves padding of \[0, 8, 0\]"):
        TokenGrid(2, 16, 16, content=(2, 8, 16))
    with pytest.raises(ValueError, match=r"a grid of \(2, 8, 8\) tokens holds no \(2, 9, 8\)"):
        crop_from_blocks(torch.zeros(1, 2, 8, 8, 1), (2, 9, 8))
