"""Gradient of the queries of block-sparse attention for Hopper GPUs, in Gluon.

Made as the forward kernel of :mod:`flashvsr.kernels.attention_hopper`, with the gradient of the output beside the
queries. A warpgroup multiplies queries with the keys of one step while the product of the step before with its keys
still runs.

Reference:
    FlashAttention-2, https://arxiv.org/abs/2307.08691, algorithm 2.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (the language has tiles and barriers where Python has annotations)
from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from flashvsr.kernels.attention_hopper import SIZES, bring_in, fetch_block, find_row, view_as_box


@gluon.jit
def load_blocks(
    query, grad, key, value, key2, value2, q_tiles, g_tiles, ring, indices, count, b, h, row, first_blocks,
    PIECES: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Bring in queries and gradients, then keys and values of every block as slots of the ring become free."""
    k_tiles, v_tiles, start, k_full, v_full, free = ring
    ROWS: gl.constexpr = q_tiles.shape[1]
    D: gl.constexpr = q_tiles.shape[2]
    if count > 0:
        mbarrier.expect(start, 2 * 2 * ROWS * D * 2)
        for half in gl.static_range(2):
            box = view_as_box(q_tiles.index(half), query)
            bring_in(query, [b, h, row * 2 * ROWS + half * ROWS, 0], start, box)
            box = view_as_box(g_tiles.index(half), grad)
            bring_in(grad, [b, h, row * 2 * ROWS + half * ROWS, 0], start, box)
    block = gl.load(indices, mask=count > 0, other=0)  # one step ahead of the copies whose address it decides
    for i in range(count):
        slot = i % STAGES
        if i >= STAGES:
            mbarrier.wait(free.index(slot), i // STAGES & 1 ^ 1)
        fetch_block(key, key2, b, h, block, first_blocks, k_tiles.index(slot), k_full.index(slot), PIECES)
        fetch_block(value, value2, b, h, block, first_blocks, v_tiles.index(slot), v_full.index(slot), PIECES)
        block = gl.load(indices + i + 1, mask=i + 1 < count, other=0)


@gluon.jit
def differentiate_logits(products, slopes, log_sum, shift, scale_log2, k_full, i, count, dtype: gl.constexpr):
    """Turn products and the gradient of the weights, both on their way, into the gradient of the logits, an operand."""
    weights = gl.exp2(warpgroup_mma_wait(1, [products]) * scale_log2 - log_sum[:, None])
    # The branch of this wait keeps the compiler from waiting for `slopes` before it computes the weights.
    STAGES: gl.constexpr = k_full.shape[0]
    mbarrier.wait(k_full.index((i + 1) % STAGES), (i + 1) // STAGES & 1, pred=i + 1 < count)
    slopes, weights = warpgroup_mma_wait(0, [slopes, weights])
    operand: gl.constexpr = gl.DotOperandLayout(0, weights.type.layout, 2)
    return gl.convert_layout((weights * (slopes - shift[:, None])).to(dtype), operand)


@gluon.jit
def differentiate_rows(q_tile, g_tile, ring, given, HALF: gl.constexpr, STAGES: gl.constexpr):
    """Gradient of half of the block's queries; step i multiplies queries with keys i while keys i - 1 are summed up."""
    k_tiles, v_tiles, start, k_full, v_full, free = ring
    grad_query, out_n, lse, delta, count, scale, scale_log2 = given
    ROWS: gl.constexpr = q_tile.shape[0]
    D: gl.constexpr = q_tile.shape[1]
    dtype: gl.constexpr = k_tiles.dtype
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    rows = HALF * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    log_sum, shift = gl.load(lse + rows), gl.load(delta + rows)

    acc = gl.zeros([ROWS, D], gl.float32, layout)
    zeros = gl.zeros([ROWS, D], gl.float32, layout)  # blocks have as many tokens as heads have channels
    if count > 0:
        mbarrier.wait(start, 0)
        mbarrier.wait(k_full.index(0), 0)
        products = warpgroup_mma(q_tile, k_tiles.index(0).permute((1, 0)), zeros, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(0), 0)
        slopes = warpgroup_mma(g_tile, v_tiles.index(0).permute((1, 0)), zeros, use_acc=False, is_async=True)
        grad_logits = differentiate_logits(products, slopes, log_sum, shift, scale_log2, k_full, 0, count, dtype)
        sums = warpgroup_mma(grad_logits, k_tiles.index(0), acc, is_async=True)
        for i in range(1, count):
            slot = i % STAGES
            k_tile, v_tile = k_tiles.index(slot), v_tiles.index(slot)
            products = warpgroup_mma(q_tile, k_tile.permute((1, 0)), zeros, use_acc=False, is_async=True)
            acc, _ = warpgroup_mma_wait(1, [sums, grad_logits])
            mbarrier.arrive(free.index((i - 1) % STAGES), count=1)
            mbarrier.wait(v_full.index(slot), i // STAGES & 1)
            slopes = warpgroup_mma(g_tile, v_tile.permute((1, 0)), zeros, use_acc=False, is_async=True)
            grad_logits = differentiate_logits(products, slopes, log_sum, shift, scale_log2, k_full, i, count, dtype)
            sums = warpgroup_mma(grad_logits, k_tile, acc, is_async=True)
        acc = warpgroup_mma_wait(0, [sums])
    channels = gl.arange(0, D, gl.SliceLayout(0, layout))
    gl.store(grad_query + rows[:, None] * out_n + channels[None, :], (acc * scale).to(dtype))


@gluon.jit(do_not_specialize=SIZES)
def grad_of_query(
    query, grad, key, value, key2, value2, grad_query, lse, delta, counts, indices, order, out_b, out_h, out_n,
    heads, rows, columns, list_b, list_h, first_blocks, scale, scale_log2,
    PIECES: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Gradient of one block of queries: a loop over the kept key blocks, as in the forward pass."""
    BLOCK: gl.constexpr = key.block_shape[2]
    D: gl.constexpr = key.block_shape[3]
    b, h, row, count, indices, token = find_row(order, counts, indices, heads, rows, columns, list_b, list_h, BLOCK)
    grad_query += b.to(gl.int64) * out_b + h.to(gl.int64) * out_h + (row * BLOCK).to(gl.int64) * out_n
    lse += token
    delta += token

    tile: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    q_tiles = gl.allocate_shared_memory(query.dtype, [2, BLOCK // 2, D], tile)
    g_tiles = gl.allocate_shared_memory(query.dtype, [2, BLOCK // 2, D], tile)
    k_tiles = gl.allocate_shared_memory(query.dtype, [STAGES, BLOCK, D], tile)
    v_tiles = gl.allocate_shared_memory(query.dtype, [STAGES, BLOCK, D], tile)
    starts = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(starts.index(0), count=1)
    for slot in gl.static_range(STAGES):
        mbarrier.init(k_full.index(slot), count=1)
        mbarrier.init(v_full.index(slot), count=1)
        mbarrier.init(free.index(slot), count=2)
    ring = (k_tiles, v_tiles, starts.index(0), k_full, v_full, free)
    given = (grad_query, out_n, lse, delta, count, scale, scale_log2)
    gl.warp_specialize(
        [
            (differentiate_rows, (q_tiles.index(0), g_tiles.index(0), ring, given, 0, STAGES)),
            (differentiate_rows, (q_tiles.index(1), g_tiles.index(1), ring, given, 1, STAGES)),
            (
                load_blocks,
                (
                    query, grad, key, value, key2, value2, q_tiles, g_tiles, ring, indices, count, b, h, row,
                    first_blocks, PIECES, STAGES,
                ),
            ),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
