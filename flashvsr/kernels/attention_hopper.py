"""Block-sparse attention for Hopper GPUs, in Gluon; :mod:`flashvsr.kernels.attention_hopper_launch` launches it.

One program attends from the 128 queries of a block to the key blocks that its list names. One warp brings keys and
values in through the tensor memory accelerator, into rings of shared memory; two warpgroups of four warps take 64
queries each. A warpgroup multiplies the weights of one step with their values while it computes the weights of the
next, and the two take turns with the tensor cores, so that one's softmax runs beneath the other's products.

Lists, pieces and logits in base 2 are those of :mod:`flashvsr.kernels.attention_triton`. Tensors come as descriptors of
`[B, heads, tokens, D]`, so any strides will do that are multiples of 16 bytes. Barriers count phases: the n-th use of a
slot waits for parity n % 2.

Reference:
    FlashAttention-3, https://arxiv.org/abs/2407.08608, sections 3.1 and 3.2.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (the language has tiles and barriers where Python has annotations)
from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

SIZES = ["heads", "rows", "columns", "first_blocks", "list_b", "list_h"]
"""Arguments whose values do not change the machine code: a new size does not compile anew."""


bring_in = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared  # its name since 3.9

if hasattr(gl.shared_memory_descriptor, "_reinterpret"):

    @gluon.jit
    def view_as_box(tile, descriptor):
        """The rows of a tile in shared memory as the box of `[B, heads, tokens, D]` that a descriptor brings in."""
        return tile._reinterpret(descriptor.dtype, [1, 1, tile.shape[0], tile.shape[1]], descriptor.layout)

else:  # its name since Triton 3.9

    @gluon.jit
    def view_as_box(tile, descriptor):
        """The rows of a tile in shared memory as the box of `[B, heads, tokens, D]` that a descriptor brings in."""
        return tile.reinterpret(descriptor.dtype, [1, 1, tile.shape[0], tile.shape[1]], descriptor.layout)


@gluon.jit
def fetch_block(first, second, b, h, block, first_blocks, tile, full, PIECES: gl.constexpr):
    """Start to bring block ``block`` into ``tile`` from the piece that holds it; barrier ``full`` awaits it."""
    BLOCK: gl.constexpr = tile.shape[0]
    box = view_as_box(tile, first)
    mbarrier.expect(full, BLOCK * tile.shape[1] * 2)
    if PIECES == 1:
        bring_in(first, [b, h, block * BLOCK, 0], full, box)
    else:
        in_first = block < first_blocks
        start = (block - first_blocks) * BLOCK
        bring_in(first, [b, h, block * BLOCK, 0], full, box, pred=in_first)
        bring_in(second, [b, h, start, 0], full, box, pred=block >= first_blocks)


@gluon.jit
def load_blocks(
    query, key, value, key2, value2, q_tiles, q_full, ring, b, h, row, indices, count, first_blocks,
    PIECES: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Bring in the queries, then keys and values of every block of the list as slots of the ring become free."""
    k_tiles, v_tiles, k_full, v_full, free = ring
    ROWS: gl.constexpr = q_tiles.shape[1]
    D: gl.constexpr = q_tiles.shape[2]
    if count > 0:
        mbarrier.expect(q_full, 2 * ROWS * D * 2)
        for half in gl.static_range(2):
            box = view_as_box(q_tiles.index(half), query)
            bring_in(query, [b, h, (2 * row + half) * ROWS, 0], q_full, box)
    block = gl.load(indices, mask=count > 0, other=0)  # one step ahead of the copies whose address it decides
    for i in range(count):
        slot = i % STAGES
        following = (i + 1) % STAGES
        if i >= STAGES:
            mbarrier.wait(free.index(slot), i // STAGES & 1 ^ 1)
        fetch_block(key, key2, b, h, block, first_blocks, k_tiles.index(slot), k_full.index(slot), PIECES)
        if i >= STAGES:  # step i - STAGES + 1 used the values of step i - STAGES
            mbarrier.wait(free.index(following), (i + 1) // STAGES & 1 ^ 1)
        fetch_block(value, value2, b, h, block, first_blocks, v_tiles.index(slot), v_full.index(slot), PIECES)
        block = gl.load(indices + i + 1, mask=i + 1 < count, other=0)


@gluon.jit
def soften(logits, high, scale_log2, tile_dtype: gl.constexpr, layout: gl.constexpr):
    """Turn products into weights, the operand of the next product.

    Also returned: their row sums, the new maxima, and the factor for what was summed under the old ones.
    """
    higher = gl.maximum(high, gl.max(logits, 1) * scale_log2)
    weights = gl.exp2(logits * scale_log2 - higher[:, None])
    return gl.convert_layout(weights.to(tile_dtype), layout), gl.sum(weights, 1), higher, gl.exp2(high - higher)


@gluon.jit
def attend_rows(
    q_tile, q_full, ring, turn, other_turn, out, out_n, lse, count, scale_log2,
    HALF: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Attend from half of the block's queries; step i multiplies queries with keys i and weights with values i - 1."""
    k_tiles, v_tiles, k_full, v_full, free = ring
    ROWS: gl.constexpr = q_tile.shape[0]
    D: gl.constexpr = q_tile.shape[1]
    BLOCK: gl.constexpr = k_tiles.shape[1]
    gl.static_assert(BLOCK == D, "logits and output share a layout")
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    operand: gl.constexpr = gl.DotOperandLayout(0, layout, 2)

    high = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, layout))
    total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, layout))
    acc = gl.zeros([ROWS, D], gl.float32, layout)
    zeros = gl.zeros([ROWS, BLOCK], gl.float32, layout)
    if count > 0:
        mbarrier.wait(q_full, 0)
        mbarrier.wait(k_full.index(0), 0)
        mbarrier.wait(turn, HALF ^ 1)
        product = warpgroup_mma(q_tile, k_tiles.index(0).permute((1, 0)), zeros, use_acc=False, is_async=True)
        mbarrier.arrive(other_turn, count=1)
        logits = warpgroup_mma_wait(0, [product])
        mbarrier.arrive(free.index(0), count=1)
        weights, total, high, shrink = soften(logits, high, scale_log2, k_tiles.dtype, operand)
        mbarrier.wait(k_full.index(1), 0, pred=count > 1)
        for i in range(1, count):
            slot = i % STAGES
            last = (i - 1) % STAGES
            mbarrier.wait(v_full.index(last), (i - 1) // STAGES & 1)
            mbarrier.wait(turn, HALF ^ 1 ^ (i & 1))
            product = warpgroup_mma(q_tile, k_tiles.index(slot).permute((1, 0)), zeros, use_acc=False, is_async=True)
            sums = warpgroup_mma(weights, v_tiles.index(last), acc, is_async=True)
            mbarrier.arrive(other_turn, count=1)
            logits = warpgroup_mma_wait(1, [product])
            next_weights, row_sums, high, shrink = soften(logits, high, scale_log2, k_tiles.dtype, operand)
            total = total * shrink + row_sums
            # The branch of this wait keeps the compiler from waiting for `sums` before it computes the weights.
            mbarrier.wait(k_full.index((i + 1) % STAGES), (i + 1) // STAGES & 1, pred=i + 1 < count)
            acc, _, weights = warpgroup_mma_wait(0, [sums, weights, next_weights])
            mbarrier.arrive(free.index(slot), count=1)
            acc = acc * shrink[:, None]
        last = (count - 1) % STAGES
        mbarrier.wait(v_full.index(last), (count - 1) // STAGES & 1)
        acc = warpgroup_mma_wait(0, [warpgroup_mma(weights, v_tiles.index(last), acc, is_async=True)])

    total = gl.where(total == 0.0, 1.0, total)  # a row without blocks gives zeros
    rows = HALF * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, layout))
    channels = gl.arange(0, D, gl.SliceLayout(0, layout))
    acc = acc * (1.0 / total)[:, None]
    gl.store(out + rows[:, None] * out_n + channels[None, :], acc.to(out.dtype.element_ty))
    gl.store(lse + rows, high + gl.log2(total))


@gluon.jit
def allocate_barriers(SLOTS: gl.constexpr, ARRIVALS: gl.constexpr):
    """Barriers in shared memory, each of which a number of arrivals completes."""
    barriers = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(SLOTS):
        mbarrier.init(barriers.index(slot), count=ARRIVALS)
    return barriers


@gluon.jit
def find_row(order, counts, indices, heads, rows, columns, list_b, list_h, BLOCK: gl.constexpr):
    """Which row of blocks the program takes; returned: b, h, row, the row's list, and the place of its first token."""
    flat = gl.load(order + gl.program_id(0))
    group, row = flat // rows, flat % rows
    b, h = group // heads, group % heads
    lists = b * list_b + h * list_h
    count = gl.load(counts + lists + row)
    indices += (lists + row).to(gl.int64) * columns
    return b, h, row, count, indices, (group.to(gl.int64) * rows + row) * BLOCK


@gluon.jit(do_not_specialize=SIZES)
def attend_forward(
    query, key, value, key2, value2, out, lse, counts, indices, order, out_b, out_h, out_n,
    heads, rows, columns, list_b, list_h, first_blocks, scale_log2,
    PIECES: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Attend from one block of queries to the kept key blocks of its list."""
    BLOCK: gl.constexpr = key.block_shape[2]
    D: gl.constexpr = key.block_shape[3]
    b, h, row, count, indices, token = find_row(order, counts, indices, heads, rows, columns, list_b, list_h, BLOCK)
    out += b.to(gl.int64) * out_b + h.to(gl.int64) * out_h + (row * BLOCK).to(gl.int64) * out_n
    lse += token

    tile: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    q_tiles = gl.allocate_shared_memory(query.dtype, [2, BLOCK // 2, D], tile)
    k_tiles = gl.allocate_shared_memory(query.dtype, [STAGES, BLOCK, D], tile)
    v_tiles = gl.allocate_shared_memory(query.dtype, [STAGES, BLOCK, D], tile)
    once = allocate_barriers(3, 1)
    ring = (k_tiles, v_tiles, allocate_barriers(STAGES, 1), allocate_barriers(STAGES, 1), allocate_barriers(STAGES, 2))
    q_full, turn, turn2 = once.index(0), once.index(1), once.index(2)
    gl.warp_specialize(
        [
            (attend_rows, (q_tiles.index(0), q_full, ring, turn, turn2, out, out_n, lse, count, scale_log2, 0, STAGES)),
            (attend_rows, (q_tiles.index(1), q_full, ring, turn2, turn, out, out_n, lse, count, scale_log2, 1, STAGES)),
            (
                load_blocks,
                (
                    query, key, value, key2, value2, q_tiles, q_full, ring, b, h, row, indices, count, first_blocks,
                    PIECES, STAGES,
                ),
            ),
        ],
        [4, 1],
        [240, 24],
    )  # fmt: skip
