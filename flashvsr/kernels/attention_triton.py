"""The Triton kernels of block-sparse attention; :mod:`flashvsr.attention.impl.triton` launches them.

Shapes and strides: every `[B, heads, tokens, D]` tensor comes as a pointer and its strides over B, heads and tokens;
D is contiguous. Token counts are multiples of ``BLOCK``, so that no load needs a bounds check. Logits live in base 2:
the factor ``scale * log2(e)`` is applied to them in fp32 and ``exp2`` replaces ``exp``.

Lists: ``counts`` `[lists, rows]` and ``indices`` `[lists, rows, columns]` name the kept blocks of each row; ``list_b``
and ``list_h`` are their strides over B and heads counted in rows (0 where a list is shared), ``columns`` is the stride
of a row.

Keys and values come in two pieces, the first ``first_blocks`` blocks from one and the rest from the other; with
``PIECES == 1`` the second is never read.

Reference:
    FlashAttention-2, https://arxiv.org/abs/2307.08691, algorithms 1 and 2.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs
# (the language has pointers and tiles where Python has annotations)
from __future__ import annotations

import triton
import triton.language as tl

SIZES = ["heads", "rows", "columns", "first_blocks", "first_row", "list_b", "list_h", "tokens"]
"""Arguments whose values do not change the machine code: a new size does not compile anew."""


@triton.jit(do_not_specialize=SIZES)
def list_kept_blocks(
    mask, counts, indices, mask_b, mask_h, mask_row, mask_column, heads, rows, columns, CHUNK: tl.constexpr
):
    """Write the kept columns of one mask row, in order, and their number."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1).to(tl.int64)
    mask += group // heads * mask_b + group % heads * mask_h + row * mask_row
    indices += (group * rows + row) * columns
    count = 0
    for start in range(0, columns, CHUNK):
        column = start + tl.arange(0, CHUNK)
        keep = tl.load(mask + column.to(tl.int64) * mask_column, mask=column < columns, other=0).to(tl.int32)
        tl.store(indices + count + tl.cumsum(keep, 0) - keep, column, mask=keep != 0)
        count += tl.sum(keep, 0)
    tl.store(counts + group * rows + row, count)


@triton.jit
def order_rows(counts, order, total, early, ROWS: tl.constexpr, LAST: tl.constexpr):
    """Number rows: ``early`` as they come, then the last, at most ``LAST``, fullest first; ``ROWS`` to a program."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tl.store(order + row, row, mask=row < early)
    if (tl.program_id(0) + 1) * ROWS > early:
        other = early + tl.arange(0, LAST)
        own = tl.load(counts + row, mask=row < total, other=-1)
        theirs = tl.load(counts + other, mask=other < total, other=-1)
        first = (theirs[None, :] == own[:, None]) & (other[None, :] < row[:, None])  # of equally full ones
        place = early + tl.sum(((theirs[None, :] > own[:, None]) | first).to(tl.int32), 1)
        tl.store(order + place, row, mask=(row >= early) & (row < total))


@triton.jit
def load_tile(base, stride, start, ROWS: tl.constexpr, D: tl.constexpr):
    """Load `[ROWS, D]` from row ``start`` on; the start is 64 bits wide, offsets inside a tile fit in 32."""
    rows = tl.arange(0, ROWS)
    return tl.load(base + tl.cast(start, tl.int64) * stride + rows[:, None] * stride + tl.arange(0, D)[None, :])


@triton.jit
def store_tile(base, stride, start, tile, ROWS: tl.constexpr, D: tl.constexpr):
    """Store `[ROWS, D]` from row ``start`` on, in the dtype of ``base``."""
    rows = tl.arange(0, ROWS)
    pointers = base + tl.cast(start, tl.int64) * stride + rows[:, None] * stride + tl.arange(0, D)[None, :]
    tl.store(pointers, tile.to(base.dtype.element_ty))


@triton.jit
def load_key_tile(
    first, first_stride, second, second_stride, first_blocks, block, offset,
    PIECES: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Load `[ROWS, D]` of key (or value) block ``block`` from the piece that holds it."""
    if PIECES == 1:
        return load_tile(first, first_stride, block * BLOCK + offset, ROWS, D)
    in_first = block < first_blocks
    base = tl.where(in_first, first, second)
    stride = tl.where(in_first, first_stride, second_stride)
    local = tl.where(in_first, block, block - first_blocks)
    return load_tile(base, stride, local * BLOCK + offset, ROWS, D)


@triton.jit(do_not_specialize=SIZES)
def attend_forward(
    query, key, value, key2, value2, out, lse, counts, indices, order,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n,
    key2_b, key2_h, key2_n, value2_b, value2_h, value2_n, out_b, out_h, out_n,
    heads, rows, columns, list_b, list_h, first_blocks, scale_log2,
    PIECES: tl.constexpr, ORDERED: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Attend from ``ROWS`` queries to the kept key blocks of their block, with the softmax kept online."""
    group = tl.program_id(1)
    b, h = (group // heads).to(tl.int64), (group % heads).to(tl.int64)
    row, part = tl.program_id(0) // (BLOCK // ROWS), tl.program_id(0) % (BLOCK // ROWS)
    lists = b * list_b + h * list_h
    if ORDERED:
        row = tl.load(order + lists + row)
    count = tl.load(counts + lists + row)
    indices += (lists + row) * columns
    key += b * key_b + h * key_h
    value += b * value_b + h * value_h
    key2 += b * key2_b + h * key2_h
    value2 += b * value2_b + h * value2_h

    start = row * BLOCK + part * ROWS
    q = load_tile(query + b * query_b + h * query_h, query_n, start, ROWS, D)
    acc = tl.zeros([ROWS, D], tl.float32)
    high = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    steps = count * (BLOCK // COLUMNS)
    block = tl.load(indices, mask=steps > 0, other=0)  # one step ahead of the loads whose address it decides
    for i in range(steps):
        offset = i % (BLOCK // COLUMNS) * COLUMNS
        k = load_key_tile(key, key_n, key2, key2_n, first_blocks, block, offset, PIECES, BLOCK, COLUMNS, D)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee")  # [ROWS, COLUMNS]
        higher = tl.maximum(high, tl.max(logits, 1) * scale_log2)
        weights = tl.exp2(logits * scale_log2 - higher[:, None])
        shrink = tl.exp2(high - higher)
        total = total * shrink + tl.sum(weights, 1)
        high = higher
        v = load_key_tile(value, value_n, value2, value2_n, first_blocks, block, offset, PIECES, BLOCK, COLUMNS, D)
        acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        block = tl.load(indices + (i + 1) // (BLOCK // COLUMNS), mask=i + 1 < steps, other=0)

    total = tl.where(total == 0.0, 1.0, total)  # a row without blocks gives zeros
    store_tile(out + b * out_b + h * out_h, out_n, start, acc / total[:, None], ROWS, D)
    lse += group.to(tl.int64) * rows * BLOCK + start + tl.arange(0, ROWS)
    tl.store(lse, high + tl.log2(total))


@triton.jit(do_not_specialize=SIZES)
def dot_rows(
    out, grad, delta, out_b, out_h, out_n, grad_b, grad_h, grad_n, heads, tokens, ROWS: tl.constexpr, D: tl.constexpr
):
    """Write the sum over D of out * grad, which the softmax's derivative subtracts."""
    group = tl.program_id(1)
    b, h = (group // heads).to(tl.int64), (group % heads).to(tl.int64)
    start = tl.program_id(0) * ROWS
    o = load_tile(out + b * out_b + h * out_h, out_n, start, ROWS, D).to(tl.float32)
    g = load_tile(grad + b * grad_b + h * grad_h, grad_n, start, ROWS, D).to(tl.float32)
    tl.store(delta + group.to(tl.int64) * tokens + start + tl.arange(0, ROWS), tl.sum(o * g, 1))


@triton.jit(do_not_specialize=SIZES)
def grad_of_query(
    query, key, value, key2, value2, grad, lse, delta, grad_query, counts, indices, order,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n,
    key2_b, key2_h, key2_n, value2_b, value2_h, value2_n, grad_b, grad_h, grad_n, out_b, out_h, out_n,
    heads, rows, columns, list_b, list_h, first_blocks, scale, scale_log2,
    PIECES: tl.constexpr, ORDERED: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Gradient of ``ROWS`` queries: a loop over the kept key blocks, as in the forward pass."""
    group = tl.program_id(1)
    b, h = (group // heads).to(tl.int64), (group % heads).to(tl.int64)
    row, part = tl.program_id(0) // (BLOCK // ROWS), tl.program_id(0) % (BLOCK // ROWS)
    lists = b * list_b + h * list_h
    if ORDERED:
        row = tl.load(order + lists + row)
    count = tl.load(counts + lists + row)
    indices += (lists + row) * columns
    key += b * key_b + h * key_h
    value += b * value_b + h * value_h
    key2 += b * key2_b + h * key2_h
    value2 += b * value2_b + h * value2_h

    start = row * BLOCK + part * ROWS
    q = load_tile(query + b * query_b + h * query_h, query_n, start, ROWS, D)
    g = load_tile(grad + b * grad_b + h * grad_h, grad_n, start, ROWS, D)
    token = group.to(tl.int64) * rows * BLOCK + start + tl.arange(0, ROWS)
    log_sum, shift = tl.load(lse + token), tl.load(delta + token)
    acc = tl.zeros([ROWS, D], tl.float32)
    steps = count * (BLOCK // COLUMNS)
    block = tl.load(indices, mask=steps > 0, other=0)  # one step ahead of the loads whose address it decides
    for i in range(steps):
        offset = i % (BLOCK // COLUMNS) * COLUMNS
        k = load_key_tile(key, key_n, key2, key2_n, first_blocks, block, offset, PIECES, BLOCK, COLUMNS, D)
        v = load_key_tile(value, value_n, value2, value2_n, first_blocks, block, offset, PIECES, BLOCK, COLUMNS, D)
        logits = tl.dot(q, tl.trans(k), input_precision="ieee")  # [ROWS, COLUMNS]
        weights = tl.exp2(logits * scale_log2 - log_sum[:, None])
        grad_weights = tl.dot(g, tl.trans(v), input_precision="ieee")
        grad_logits = weights * (grad_weights - shift[:, None])
        acc = tl.dot(grad_logits.to(k.dtype), k, acc, input_precision="ieee")
        block = tl.load(indices + (i + 1) // (BLOCK // COLUMNS), mask=i + 1 < steps, other=0)
    store_tile(grad_query + b * out_b + h * out_h, out_n, start, acc * scale, ROWS, D)


@triton.jit(do_not_specialize=SIZES)
def grad_of_key_value(
    query, key, value, grad, lse, delta, grad_key, grad_value, counts, indices,
    query_b, query_h, query_n, key_b, key_h, key_n, value_b, value_h, value_n, grad_b, grad_h, grad_n,
    out_b, out_h, out_n,
    heads, columns, first_row, list_b, list_h, scale, scale_log2,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Gradients of ``ROWS`` keys and values of one piece: a loop over the query blocks that kept their block.

    Here rows are keys and columns are queries; ``first_row`` is the piece's first block among all key blocks.
    """
    group = tl.program_id(1)
    b, h = (group // heads).to(tl.int64), (group % heads).to(tl.int64)
    row, part = tl.program_id(0) // (BLOCK // ROWS), tl.program_id(0) % (BLOCK // ROWS)
    lists = b * list_b + h * list_h + first_row
    count = tl.load(counts + lists + row)
    indices += (lists + row) * columns
    query += b * query_b + h * query_h
    grad += b * grad_b + h * grad_h
    lse += group.to(tl.int64) * columns * BLOCK
    delta += group.to(tl.int64) * columns * BLOCK

    start = row * BLOCK + part * ROWS
    k = load_tile(key + b * key_b + h * key_h, key_n, start, ROWS, D)
    v = load_tile(value + b * value_b + h * value_h, value_n, start, ROWS, D)
    grad_k = tl.zeros([ROWS, D], tl.float32)
    grad_v = tl.zeros([ROWS, D], tl.float32)
    steps = count * (BLOCK // COLUMNS)
    block = tl.load(indices, mask=steps > 0, other=0)  # one step ahead of the loads whose address it decides
    for i in range(steps):
        offset = i % (BLOCK // COLUMNS) * COLUMNS
        first = block * BLOCK + offset
        token = first + tl.arange(0, COLUMNS)
        q = load_tile(query, query_n, first, COLUMNS, D)
        logits = tl.dot(k, tl.trans(q), input_precision="ieee")  # [ROWS, COLUMNS]
        weights = tl.exp2(logits * scale_log2 - tl.load(lse + token)[None, :])
        g = load_tile(grad, grad_n, first, COLUMNS, D)
        grad_v = tl.dot(weights.to(g.dtype), g, grad_v, input_precision="ieee")
        grad_weights = tl.dot(v, tl.trans(g), input_precision="ieee")
        grad_logits = weights * (grad_weights - tl.load(delta + token)[None, :])
        grad_k = tl.dot(grad_logits.to(q.dtype), q, grad_k, input_precision="ieee")
        block = tl.load(indices + (i + 1) // (BLOCK // COLUMNS), mask=i + 1 < steps, other=0)
    store_tile(grad_key + b * out_b + h * out_h, out_n, start, grad_k * scale, ROWS, D)
    store_tile(grad_value + b * out_b + h * out_h, out_n, start, grad_v, ROWS, D)
