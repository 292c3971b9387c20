"""The Triton kernels of block-sparse attention in 8 bits; :mod:`flashvsr.kernels.attention_8bit_launch` launches them.

What they compute is defined by :mod:`flashvsr.attention.impl.plain_8bit`. Lists, pieces, strides and logits in base 2
are those of :mod:`flashvsr.kernels.attention_triton`. What has been quantised is contiguous: queries and keys int8
`[B, heads, tokens, D]`, values `[B, heads, blocks, D, BLOCK]`, so that both 8-bit products read their second operand
along the axis that they sum over.

Reference:
    SageAttention2, https://arxiv.org/abs/2411.10958.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (the language has pointers and tiles where Python has annotations)
from __future__ import annotations

import triton
import triton.language as tl

from flashvsr.kernels.attention_triton import load_key_tile, load_tile, store_tile

SIZES = ["heads", "rows", "columns", "first_blocks", "blocks", "list_b", "list_h"]
"""Arguments whose values do not change the machine code: a new size does not compile anew."""

SMALLEST_SCALE = tl.constexpr(1e-12)
ROUNDING = tl.constexpr(12582912.0)  # 1.5 * 2^23: what is added to it in fp32 is rounded to whole numbers
WEIGHT_EXPONENT = tl.constexpr(8.0)  # e4m3 ends at 448: weights, else at most 1, are computed times 2^8


@triton.jit(do_not_specialize=SIZES)
def mean_of_blocks(
    key, key2, kept, means, key_b, key_h, key_n, key2_b, key2_h, key2_n, heads, blocks, first_blocks,
    PIECES: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Write the mean of the keys of a block, zero where no query keeps it."""
    group = tl.program_id(1)
    b, h, block = (group // heads).to(tl.int64), (group % heads).to(tl.int64), tl.program_id(0)
    place = group.to(tl.int64) * blocks + block
    mean = tl.zeros([D], tl.float32)
    if tl.load(kept + place):
        key += b * key_b + h * key_h
        key2 += b * key2_b + h * key2_h
        tile = load_key_tile(key, key_n, key2, key2_n, first_blocks, block, 0, PIECES, BLOCK, BLOCK, D)
        mean = tl.sum(tile.to(tl.float32), 0) / BLOCK
    tl.store(means + place * D + tl.arange(0, D), mean)


@triton.jit(do_not_specialize=SIZES)
def quantize_blocks(
    x, x2, kept, mean, out, scales, x_b, x_h, x_n, x2_b, x2_h, x2_n, heads, blocks, first_blocks,
    PIECES: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Write a block as int8 with a scale; of ``KEYS`` the mean is taken off, and those that no query keeps are left."""
    group = tl.program_id(1)
    b, h, block = (group // heads).to(tl.int64), (group % heads).to(tl.int64), tl.program_id(0)
    place = group.to(tl.int64) * blocks + block
    wanted = True
    if KEYS:
        wanted = tl.load(kept + place) != 0
    if wanted:
        x += b * x_b + h * x_h
        x2 += b * x2_b + h * x2_h
        tile = load_key_tile(x, x_n, x2, x2_n, first_blocks, block, 0, PIECES, BLOCK, BLOCK, D).to(tl.float32)
        if KEYS:
            tile -= tl.load(mean + group.to(tl.int64) * D + tl.arange(0, D))[None, :]
        scale = tl.maximum(tl.max(tl.max(tl.abs(tile), 1), 0), SMALLEST_SCALE) / 127.0
        scale += 0.0 * tl.sum(tl.sum(tile, 1), 0)  # a NaN among the numbers must not get lost
        tl.store(scales + place, scale)
        rounded = tile / scale + ROUNDING - ROUNDING
        store_tile(out + place * BLOCK * D, D, 0, rounded, BLOCK, D)


@triton.jit(do_not_specialize=SIZES)
def quantize_values(
    value, value2, kept, out, scales, value_b, value_h, value_n, value2_b, value2_h, value2_n,
    heads, blocks, first_blocks, largest,
    REORDER: tl.constexpr, PIECES: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Write a block of values `[D, BLOCK]` in 8-bit floats with a scale, if some query keeps it.

    With ``REORDER`` tokens are in the order of :func:`flashvsr.kernels.attention_hopper_8bit.in_operand_order`.
    """
    group = tl.program_id(1)
    b, h, block = (group // heads).to(tl.int64), (group % heads).to(tl.int64), tl.program_id(0)
    place = group.to(tl.int64) * blocks + block
    if tl.load(kept + place):
        value += b * value_b + h * value_h
        value2 += b * value2_b + h * value2_h
        tile = load_key_tile(value, value_n, value2, value2_n, first_blocks, block, 0, PIECES, BLOCK, BLOCK, D)
        wide = tile.to(tl.float32)
        scale = tl.maximum(tl.max(tl.max(tl.abs(wide), 1), 0), SMALLEST_SCALE) / largest
        scale += 0.0 * tl.sum(tl.sum(wide, 1), 0)  # as above
        tl.store(scales + place, scale)
        scaled = tl.trans(wide / scale)
        if REORDER:
            parts = tl.reshape(scaled, (D, BLOCK // 32, 2, 2, 4, 2))
            scaled = tl.reshape(tl.permute(parts, (0, 1, 2, 4, 3, 5)), (D, BLOCK))
        store_tile(out + place * BLOCK * D, BLOCK, 0, scaled, D, BLOCK)


@triton.jit
def load_values(base, block, offset, BLOCK: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr):
    """Load `[COLUMNS, D]` of the quantised values of a block, which lie as `[D, BLOCK]`."""
    start = base + tl.cast(block, tl.int64) * (BLOCK * D) + offset
    return tl.trans(tl.load(start + tl.arange(0, D)[:, None] * BLOCK + tl.arange(0, COLUMNS)[None, :]))


@triton.jit(do_not_specialize=SIZES)
def attend_8bit(
    query, key, value, value2, query_scale, key_scale, value_scale, out, counts, indices, order,
    value_b, value_h, value_n, value2_b, value2_h, value2_n, out_b, out_h, out_n,
    heads, rows, columns, list_b, list_h, first_blocks, scale_log2,
    FP8_VALUES: tl.constexpr, PIECES: tl.constexpr, ORDERED: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Attend from ``ROWS`` queries to the kept key blocks of their block, with the softmax kept online."""
    group = tl.program_id(1)
    wide_group = group.to(tl.int64)
    b, h = (group // heads).to(tl.int64), (group % heads).to(tl.int64)
    row, part = tl.program_id(0) // (BLOCK // ROWS), tl.program_id(0) % (BLOCK // ROWS)
    lists = b * list_b + h * list_h
    if ORDERED:
        row = tl.load(order + lists + row)
    count = tl.load(counts + lists + row)
    indices += (lists + row) * columns
    key += wide_group * columns * BLOCK * D
    key_scale += wide_group * columns
    if FP8_VALUES:
        value += wide_group * columns * BLOCK * D
        value_scale += wide_group * columns
    else:
        value += b * value_b + h * value_h
        value2 += b * value2_b + h * value2_h

    EXPONENT: tl.constexpr = WEIGHT_EXPONENT if FP8_VALUES else 0.0
    start = row * BLOCK + part * ROWS
    q = load_tile(query + wide_group * rows * BLOCK * D, D, start, ROWS, D)
    row_scale = tl.load(query_scale + wide_group * rows + row) * scale_log2
    acc = tl.zeros([ROWS, D], tl.float32)
    high = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    steps = count * (BLOCK // COLUMNS)
    block = tl.load(indices, mask=steps > 0, other=0)  # one step ahead of the loads whose address it decides
    for i in range(steps):
        offset = i % (BLOCK // COLUMNS) * COLUMNS
        k = load_tile(key, D, block * BLOCK + offset, COLUMNS, D)
        logits = tl.dot(q, tl.trans(k)).to(tl.float32) * (row_scale * tl.load(key_scale + block))  # [ROWS, COLUMNS]
        higher = tl.maximum(high, tl.ceil(tl.max(logits, 1)))
        shrink = tl.exp2(high - higher)  # a whole power of two: what was rounded stays as it was rounded
        weights = tl.exp2(logits - (higher - EXPONENT)[:, None])
        total = total * shrink + tl.sum(weights, 1)
        high = higher
        if FP8_VALUES:
            v = load_values(value, block, offset, BLOCK, COLUMNS, D)
            added = tl.dot(weights.to(v.dtype), v)  # summed apart: within fp8 products sums have few bits
            acc = acc * shrink[:, None] + added * tl.load(value_scale + block)
        else:
            v = load_key_tile(value, value_n, value2, value2_n, first_blocks, block, offset, PIECES, BLOCK, COLUMNS, D)
            acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        block = tl.load(indices + (i + 1) // (BLOCK // COLUMNS), mask=i + 1 < steps, other=0)

    total = tl.where(total == 0.0, 1.0, total)  # a row without blocks gives zeros
    store_tile(out + b * out_b + h * out_h, out_n, start, acc / total[:, None], ROWS, D)
