"""Block-sparse attention in 8 bits for Hopper GPUs, in Gluon; no GPU has run it, it was only compiled.

What it computes is defined by :mod:`flashvsr.attention.impl.plain_8bit`, how it is laid out by
:mod:`flashvsr.kernels.attention_hopper`: one warp brings blocks in, two warpgroups take 64 queries each and turns with
the tensor cores. Both products are in 8 bits, int8 for scores and e4m3 for values, and read their second operand along
the axis that they sum over. Sums of a product in e4m3 have few bits, so each block's is added in fp32.

The weights of a step come out of one product and go into the next in the same registers. There the tokens of a block
stand in another order, see :func:`in_operand_order`, in which the values lie in memory, too.

Reference:
    FlashAttention-3, https://arxiv.org/abs/2407.08608, section 3.3; SageAttention2, https://arxiv.org/abs/2411.10958.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (the language has tiles and barriers where Python has annotations)
from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from flashvsr.kernels.attention_hopper import SIZES, allocate_barriers, bring_in, find_row, view_as_box

WEIGHT_EXPONENT = gl.constexpr(8.0)  # e4m3 ends at 448: weights, else at most 1, are computed times 2^8


@gluon.jit
def fetch_block(source, b, h, block, tile, full):
    """Start to bring block ``block`` of bytes into ``tile``; barrier ``full`` awaits it."""
    BLOCK: gl.constexpr = tile.shape[0]
    mbarrier.expect(full, BLOCK * tile.shape[1])
    bring_in(source, [b, h, block * BLOCK, 0], full, view_as_box(tile, source))


@gluon.jit
def load_blocks(query, key, value, q_tiles, q_full, ring, b, h, row, indices, count, STAGES: gl.constexpr):
    """Bring in the queries, then keys and values of every block of the list as slots of the ring become free."""
    k_tiles, v_tiles, k_full, v_full, free = ring
    ROWS: gl.constexpr = q_tiles.shape[1]
    D: gl.constexpr = q_tiles.shape[2]
    if count > 0:
        mbarrier.expect(q_full, 2 * ROWS * D)
        for half in gl.static_range(2):
            box = view_as_box(q_tiles.index(half), query)
            bring_in(query, [b, h, (2 * row + half) * ROWS, 0], q_full, box)
    block = gl.load(indices, mask=count > 0, other=0)  # one step ahead of the copies whose address it decides
    for i in range(count):
        slot = i % STAGES
        if i >= STAGES:
            mbarrier.wait(free.index(slot), i // STAGES & 1 ^ 1)
        fetch_block(key, b, h, block, k_tiles.index(slot), k_full.index(slot))
        fetch_block(value, b, h, block, v_tiles.index(slot), v_full.index(slot))
        block = gl.load(indices + i + 1, mask=i + 1 < count, other=0)


@gluon.jit
def in_operand_order(weights):
    """Order columns such that a thread's results of one product are, as they lie, its operand of the next in 8 bits.

    Of every 32 columns a thread has pairs of all four eights; as an operand it needs them four in a row.
    """
    ROWS: gl.constexpr = weights.shape[0]
    COLUMNS: gl.constexpr = weights.shape[1]
    parts = weights.reshape([ROWS, COLUMNS // 32, 2, 2, 4, 2])
    return parts.permute((0, 1, 2, 4, 3, 5)).reshape([ROWS, COLUMNS])


@gluon.jit
def hold(weights):
    """Have weights of 8 bits in registers at this place of the program, up to where a product read them."""
    gl.inline_asm_elementwise("// hold", "=r,0", [weights], dtype=weights.dtype, is_pure=False, pack=4)


@gluon.jit
def soften(products, factor, high, tile_dtype: gl.constexpr, layout: gl.constexpr):
    """Turn products in int32 into weights, the operand of the next product.

    Also returned: their row sums, the new maxima, and the factor for what was summed under the old ones.
    """
    wide = products.to(gl.float32)
    higher = gl.maximum(high, gl.ceil(gl.max(wide, 1) * factor))
    weights = gl.exp2(wide * factor - (higher - WEIGHT_EXPONENT)[:, None])
    operand = gl.convert_layout(in_operand_order(weights), layout).to(tile_dtype)
    return operand, gl.sum(weights, 1), higher, gl.exp2(high - higher)


@gluon.jit
def attend_rows(
    q_tile, q_full, ring, turn, other_turn, out, out_n, indices, key_scale, value_scale, scale, count,
    HALF: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Attend from half of the block's queries; step i multiplies weights i with values i and queries with keys i + 1.

    So what goes round the loop are products in 32 bits: numbers of 8 bits would take a register each there.
    """
    k_tiles, v_tiles, k_full, v_full, free = ring
    ROWS: gl.constexpr = q_tile.shape[0]
    D: gl.constexpr = q_tile.shape[1]
    BLOCK: gl.constexpr = k_tiles.shape[1]
    gl.static_assert(BLOCK == D, "logits and output share a layout")
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 32])
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 4)

    high = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, layout))
    total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, layout))
    acc = gl.zeros([ROWS, D], gl.float32, layout)
    none = gl.zeros([ROWS, D], gl.float32, layout)
    zeros = gl.zeros([ROWS, BLOCK], gl.int32, layout)
    if count > 0:
        block = gl.load(indices)
        k_scale = gl.load(key_scale + block)
        v_scale = gl.load(value_scale + block)
        block = gl.load(indices + 1, mask=count > 1, other=0)
        mbarrier.wait(q_full, 0)
        mbarrier.wait(k_full.index(0), 0)
        mbarrier.wait(turn, HALF ^ 1)
        product = warpgroup_mma(q_tile, k_tiles.index(0).permute((1, 0)), zeros, use_acc=False, is_async=True)
        mbarrier.arrive(other_turn, count=1)
        products = warpgroup_mma_wait(0, [product])
        for i in range(count - 1):
            slot = i % STAGES
            following = (i + 1) % STAGES
            next_k_scale = gl.load(key_scale + block)  # long before they are needed
            next_v_scale = gl.load(value_scale + block)
            block = gl.load(indices + i + 2, mask=i + 2 < count, other=0)
            weights, row_sums, high, shrink = soften(products, scale * k_scale, high, v_tiles.dtype, operand)
            total = total * shrink + row_sums
            acc = acc * shrink[:, None]
            mbarrier.wait(v_full.index(slot), i // STAGES & 1)
            mbarrier.wait(k_full.index(following), (i + 1) // STAGES & 1)
            mbarrier.wait(turn, HALF ^ (i & 1))
            sums = warpgroup_mma(weights, v_tiles.index(slot).permute((1, 0)), none, use_acc=False, is_async=True)
            product = warpgroup_mma(
                q_tile, k_tiles.index(following).permute((1, 0)), zeros, use_acc=False, is_async=True
            )
            mbarrier.arrive(other_turn, count=1)
            added, products = warpgroup_mma_wait(0, [sums, product])
            hold(weights)
            mbarrier.arrive(free.index(slot), count=1)
            acc += added * v_scale
            k_scale = next_k_scale
            v_scale = next_v_scale
        last = (count - 1) % STAGES
        weights, row_sums, high, shrink = soften(products, scale * k_scale, high, v_tiles.dtype, operand)
        total = total * shrink + row_sums
        mbarrier.wait(v_full.index(last), (count - 1) // STAGES & 1)
        sums = warpgroup_mma(weights, v_tiles.index(last).permute((1, 0)), none, use_acc=False, is_async=True)
        added = warpgroup_mma_wait(0, [sums])
        hold(weights)
        acc = acc * shrink[:, None] + added * v_scale

    total = gl.where(total == 0.0, 1.0, total)  # a row without blocks gives zeros
    rows = HALF * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    channels = gl.arange(0, D, gl.SliceLayout(0, layout))
    acc = acc * (1.0 / total)[:, None]
    gl.store(out + rows[:, None] * out_n + channels[None, :], acc.to(out.dtype.element_ty))


@gluon.jit(do_not_specialize=SIZES)
def attend_hopper_8bit(
    query, key, value, query_scale, key_scale, value_scale, out, counts, indices, order, out_b, out_h, out_n,
    heads, rows, columns, list_b, list_h, scale_log2,
    STAGES: gl.constexpr,
):  # fmt: skip
    """Attend from one block of queries to the kept key blocks of its list."""
    BLOCK: gl.constexpr = key.block_shape[2]
    D: gl.constexpr = key.block_shape[3]
    b, h, row, count, indices, token = find_row(order, counts, indices, heads, rows, columns, list_b, list_h, BLOCK)
    out += b.to(gl.int64) * out_b + h.to(gl.int64) * out_h + (row * BLOCK).to(gl.int64) * out_n
    scale = gl.load(query_scale + token // BLOCK) * scale_log2
    first_block = (b * heads + h).to(gl.int64) * columns
    key_scale += first_block
    value_scale += first_block

    tile: gl.constexpr = gl.NVMMASharedLayout(128, 8, 2)
    q_tiles = gl.allocate_shared_memory(query.dtype, [2, BLOCK // 2, D], tile)
    k_tiles = gl.allocate_shared_memory(key.dtype, [STAGES, BLOCK, D], tile)
    v_tiles = gl.allocate_shared_memory(value.dtype, [STAGES, D, BLOCK], tile)
    once = allocate_barriers(3, 1)
    ring = (k_tiles, v_tiles, allocate_barriers(STAGES, 1), allocate_barriers(STAGES, 1), allocate_barriers(STAGES, 2))
    q_full, turn, turn2 = once.index(0), once.index(1), once.index(2)
    gl.warp_specialize(
        [
            (
                attend_rows,
                (
                    q_tiles.index(0), q_full, ring, turn, turn2, out, out_n, indices, key_scale, value_scale, scale,
                    count, 0, STAGES,
                ),
            ),
            (
                attend_rows,
                (
                    q_tiles.index(1), q_full, ring, turn2, turn, out, out_n, indices, key_scale, value_scale, scale,
                    count, 1, STAGES,
                ),
            ),
            (load_blocks, (query, key, value, q_tiles, q_full, ring, b, h, row, indices, count, STAGES)),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
