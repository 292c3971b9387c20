import builtins
import importlib

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from flashvsr.attention import block_sparse_attention, choose_impl, packed_attention
from flashvsr.attention.choice import KEY_MASK_IMPLS
from flashvsr.kernels import ImplUnavailableError

PLAIN = ("reference", "gather", "dense")
SIZE = 16


def _inputs(rows: int = 4, columns: int = 6, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    shapes = ((2, 3, rows * SIZE, 8), (2, 3, columns * SIZE, 8), (2, 3, columns * SIZE, 8))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def _irregular_mask(rows: int = 4, columns: int = 6) -> torch.Tensor:
    mask = torch.rand(2, 3, rows, columns) < 0.4
    mask[0, 0, 1] = False  # an empty row
    mask[1, 2, 3] = True
    return mask


@pytest.mark.parametrize("impl", PLAIN)
def test_an_all_true_mask_is_sdpa(impl):
    query, key, value = _inputs()
    out = block_sparse_attention(query, key, value, torch.ones(1, 1, 4, 6, dtype=torch.bool), SIZE, impl=impl)
    torch.testing.assert_close(out, scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize("impl", PLAIN)
def test_one_dropped_block_is_not_sdpa(impl):
    query, key, value = _inputs()
    mask = torch.ones(1, 1, 4, 6, dtype=torch.bool)
    mask[..., 2, 3] = False
    out = block_sparse_attention(query, key, value, mask, SIZE, impl=impl)
    difference = (out - scaled_dot_product_attention(query, key, value)).abs().amax((0, 1, 3))
    assert difference[2 * SIZE : 3 * SIZE].min() > 1e-3
    assert difference[: 2 * SIZE].max() < 1e-5


@pytest.mark.parametrize("impl", ["gather", "dense"])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_output_and_gradients_equal_the_reference_on_irregular_masks(impl, scale):
    inputs, mask = _inputs(dtype=torch.float64), _irregular_mask()
    grad = torch.randn_like(inputs[0])
    results = {}
    for name in ("reference", impl):
        out = block_sparse_attention(*inputs, mask, SIZE, scale, impl=name)
        results[name] = (out, *torch.autograd.grad(out, inputs, grad))
    for ours, theirs in zip(results[impl], results["reference"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", PLAIN)
def test_an_empty_row_gives_zero_and_passes_no_gradient(impl):
    query, key, value = _inputs()
    out = block_sparse_attention(query, key, value, _irregular_mask(), SIZE, impl=impl)
    assert (out[0, 0, SIZE : 2 * SIZE] == 0).all()
    gradient = torch.autograd.grad(out.sum(), query)[0]
    assert gradient.isfinite().all()
    assert (gradient[0, 0, SIZE : 2 * SIZE] == 0).all()


@pytest.mark.parametrize("impl", PLAIN)
def test_a_mask_that_keeps_nothing_gives_zeros(impl):
    query, key, value = _inputs()
    out = block_sparse_attention(query, key, value, torch.zeros(1, 1, 4, 6, dtype=torch.bool), SIZE, impl=impl)
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("impl", PLAIN)
def test_products_beyond_the_largest_half_stay_finite(impl):
    query, key, value = (x.detach() for x in _inputs())
    query, key, mask = query * 100, key * 300, _irregular_mask()
    exact = block_sparse_attention(query, key, value, mask, SIZE, 0.0001, impl="reference")
    half = block_sparse_attention(query.half(), key.half(), value.half(), mask, SIZE, 0.0001, impl=impl)
    assert (query @ key.transpose(2, 3)).abs().max() > 65504
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=0.02)


@pytest.mark.parametrize("impl", PLAIN)
def test_pieces_equal_the_joined_tensor(impl):
    query, key, value = _inputs()
    mask = _irregular_mask()
    pieces = [tuple(x.split([4 * SIZE, 2 * SIZE], 2)) for x in (key, value)]
    joined = block_sparse_attention(query, key, value, mask, SIZE, impl=impl)
    assert torch.equal(block_sparse_attention(query, *pieces, mask, SIZE, impl=impl), joined)


@pytest.mark.parametrize("impl", PLAIN)
def test_gradcheck_in_double(impl):
    inputs = [torch.randn(1, 2, n * 2, 4, dtype=torch.float64, requires_grad=True) for n in (2, 3, 3)]
    mask = torch.tensor([[[True, False, True], [False, False, False]], [[False, True, False], [True, True, True]]])[
        None
    ]
    torch.autograd.gradcheck(lambda q, k, v: block_sparse_attention(q, k, v, mask, 2, impl=impl), inputs)


def test_gather_keeps_memory_proportional_to_what_is_kept():
    query, key, value = (torch.randn(1, 1, 64 * SIZE, 8, requires_grad=True) for _ in range(3))
    saved = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        saved.append(x.numel())
        return x

    sizes = {}
    for kept in (2, 8):
        mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
        mask[..., :kept] = True
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            block_sparse_attention(query, key, value, mask, SIZE, impl="gather")
        sizes[kept] = sum(saved)
    assert sizes[2] < sizes[8] < 64 * SIZE * 64 * SIZE


@pytest.mark.parametrize("spread", [1, 4])
@torch.no_grad()
def test_gather_in_bf16_errs_no_more_than_the_reference_and_a_dropped_block_does(spread):
    torch.manual_seed(0)
    query, key, value = (x.detach() for x in _inputs(8, 12))
    query, mask = query * spread, torch.rand(2, 3, 8, 12) < 0.5
    inputs = [x.bfloat16() for x in (query, key, value)]
    exact = block_sparse_attention(*(x.double() for x in inputs), mask, SIZE, impl="reference")

    def error(impl, mask):
        return (block_sparse_attention(*inputs, mask, SIZE, impl=impl) - exact).norm() / exact.norm()

    bound = error("reference", mask)
    fewer = mask.clone().scatter_(3, mask.float().argmax(3, keepdim=True), False)  # one block less in every row
    assert error("gather", mask) <= 1.25 * bound
    assert error("gather", fewer) > 3 * bound


@torch.no_grad()
def test_gather_is_the_same_however_few_rows_share_a_call(monkeypatch):
    from flashvsr.attention.impl import gather as impl_gather

    inputs, mask = _inputs(8, 12, dtype=torch.float64), torch.rand(2, 3, 8, 12) < 0.5
    together = block_sparse_attention(*inputs, mask, SIZE, impl="gather")
    monkeypatch.setattr(impl_gather, "BLOCKS_PER_CALL", 1)
    alone = block_sparse_attention(*inputs, mask, SIZE, impl="gather")
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-12)


class _Unsized(TorchDispatchMode):
    """Names the operations whose result has a size, or a value, that the host has to wait for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_gather_looks_at_the_counts_once_and_at_no_other_value():
    with torch.no_grad(), _Unsized() as unsized:
        block_sparse_attention(*_inputs(), _irregular_mask(), SIZE, impl="gather")
    assert unsized.names == []  # the one look is a plain copy of the counts


@pytest.mark.parametrize("impl", PLAIN)
def test_autocast_decides_the_dtype_as_it_does_for_sdpa(impl):
    query, key, value = _inputs()
    mask = _irregular_mask()
    expected = block_sparse_attention(*(x.bfloat16() for x in (query, key, value)), mask, SIZE, impl=impl)
    with torch.autocast("cpu", torch.bfloat16):
        out = block_sparse_attention(
            query,
            (key[:, :, :SIZE].bfloat16(), key[:, :, SIZE:]),
            (value[:, :, :SIZE], value[:, :, SIZE:]),
            mask,
            SIZE,
            impl=impl,
        )
        packed = packed_attention(key[:1], key[:1], value[:1].bfloat16(), [SIZE, 5 * SIZE])
    assert torch.equal(out, expected)
    assert packed.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().sum(), (query, key, value))
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_a_named_impl_is_the_one_that_runs(monkeypatch):
    from flashvsr.attention.impl import dense as impl_dense

    monkeypatch.setattr(impl_dense, "attend", lambda *args, **kwargs: "dense ran")
    mask = torch.ones(1, 1, 4, 6, dtype=torch.bool)
    assert block_sparse_attention(*_inputs(), mask, SIZE, impl="dense") == "dense ran"
    assert isinstance(block_sparse_attention(*_inputs(), mask, SIZE), torch.Tensor)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU could run them")
@pytest.mark.parametrize("impl", ["triton", "flex"])
def test_a_named_impl_that_cannot_run_raises_and_never_falls_back(impl):
    with pytest.raises(RuntimeError, match=f"{impl!r} cannot run here"):
        block_sparse_attention(*_inputs(), torch.ones(1, 1, 4, 6, dtype=torch.bool), SIZE, impl=impl)


def test_bad_arguments_are_refused_by_value():
    query, key, value = _inputs()
    mask = torch.ones(1, 1, 4, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match="'fastest'"):
        block_sparse_attention(query, key, value, mask, SIZE, impl="fastest")
    with pytest.raises(ValueError, match="whole blocks of 128"):
        block_sparse_attention(query, key, value, mask)
    with pytest.raises(ValueError, match=r"\[2 or 1, 3 or 1, 4, 6\], got torch.bool \[1, 1, 4, 5\]"):
        block_sparse_attention(query, key, value, mask[..., :5], SIZE)
    with pytest.raises(ValueError, match=r"got torch.bool \[3, 1, 4, 6\]"):
        block_sparse_attention(query, key, value, mask.expand(3, -1, -1, -1), SIZE)
    with pytest.raises(ValueError, match="block_mask is on meta and query on cpu"):
        block_sparse_attention(query, key, value, mask.to("meta"), SIZE)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        block_sparse_attention(query, key, value, mask.float(), SIZE)
    with pytest.raises(ValueError, match="multiple of 16"):
        block_sparse_attention(query, key[:, :, 1:], value[:, :, 1:], mask, SIZE)
    with pytest.raises(ValueError, match="share dtype and device"):
        block_sparse_attention(query, key.double(), value.double(), mask, SIZE)
    with pytest.raises(ValueError, match="as many pieces"):
        block_sparse_attention(query, (key, key), value, mask, SIZE)
    for lengths in ([3, 4], [], [6 * SIZE, 0]):
        with pytest.raises(ValueError, match=rf"lengths \[{str(lengths)[1:-1]}\] are at least 1"):
            packed_attention(key[:1], key[:1], value[:1], lengths)


@pytest.mark.parametrize("impl", PLAIN)
def test_strides_change_no_result(impl):
    query, key, value = _inputs(5, 5)
    mask = torch.rand(2, 3, 5, 5) < 0.5
    odd = [x.detach().transpose(2, 3).contiguous().transpose(2, 3) for x in (query, key, value)]  # D is not contiguous
    odd[0] = odd[0].repeat_interleave(2, 2)[:, :, ::2]
    expected = block_sparse_attention(query, key, value, mask.mT.contiguous(), SIZE, impl="reference")
    out = block_sparse_attention(*odd, mask.transpose(2, 3), SIZE, impl=impl)
    torch.testing.assert_close(out, expected)
    packed = packed_attention(*(x[:1] for x in odd), torch.tensor([SIZE, 7, 9, 3 * SIZE])[::1], impl="sdpa")
    samples = zip(*(x[:1].split([SIZE, 7, 9, 3 * SIZE], 2) for x in (query, key, value)), strict=True)
    torch.testing.assert_close(packed, torch.cat([scaled_dot_product_attention(*sample) for sample in samples], 2))


@pytest.mark.parametrize("impl", [*PLAIN, "auto"])
@pytest.mark.parametrize(
    ("batch", "heads", "rows", "columns"), [(0, 3, 4, 6), (2, 0, 4, 6), (2, 3, 0, 6), (2, 3, 4, 0)]
)
def test_without_samples_heads_queries_or_keys_the_result_is_empty_or_zero(impl, batch, heads, rows, columns):
    query = torch.randn(batch, heads, rows * SIZE, 8, requires_grad=True)
    key, value = (torch.randn(batch, heads, columns * SIZE, 8, requires_grad=True) for _ in range(2))
    mask = torch.ones(batch, heads, rows, columns, dtype=torch.bool)
    out = block_sparse_attention(query, key, value, mask, SIZE, impl=impl)
    assert torch.equal(out, torch.zeros_like(query))
    assert not any(gradient.any() for gradient in torch.autograd.grad(out.sum(), (query, key, value)))


@pytest.mark.parametrize("impl", PLAIN)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", [1, 2])
def test_what_a_hidden_block_holds_reaches_neither_output_nor_gradients(impl, bad, part):
    inputs, mask = [x.detach() for x in _inputs()], _irregular_mask()
    mask[..., 3] = False  # hidden from all
    mask[:, :, 2, 4] = False  # hidden from one row
    mask[:, :, 0, 4] = True
    clean = [x.clone().requires_grad_() for x in inputs]
    expected = block_sparse_attention(*clean, mask, SIZE, impl="reference")
    gradients = torch.autograd.grad(expected.sum(), clean)
    inputs[part][:, :, 3 * SIZE : 4 * SIZE] = bad
    dirty = [x.requires_grad_() for x in inputs]
    out = block_sparse_attention(*dirty, mask, SIZE, impl=impl)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), dirty), gradients)
    with torch.no_grad():
        inputs[part][0, 0, 4 * SIZE + 2, 1] = float("nan")
    out = block_sparse_attention(*dirty, mask, SIZE, impl=impl)
    assert out[0, 0, :SIZE].isnan().any()  # a visible one does not vanish
    row = slice(2 * SIZE, 3 * SIZE)
    torch.testing.assert_close(out[:, :, row], expected[:, :, row])
    to_query = torch.autograd.grad(out[:, :, row].sum(), dirty[0])[0]
    torch.testing.assert_close(to_query[:, :, row], gradients[0][:, :, row])


@pytest.mark.parametrize("impl", KEY_MASK_IMPLS[:1] + KEY_MASK_IMPLS[2:])
def test_a_key_mask_equals_a_sequence_without_these_keys(impl):
    query, key, value = _inputs(dtype=torch.float64)
    with torch.no_grad():
        key[:, :, 5 * SIZE + 3 :] = float("nan")
    kept = torch.arange(6 * SIZE) < 5 * SIZE + 3
    out = block_sparse_attention(
        query, key, value, torch.ones(1, 1, 4, 6, dtype=torch.bool), SIZE, impl=impl, key_mask=kept
    )
    expected = scaled_dot_product_attention(query, key[:, :, kept], value[:, :, kept])
    torch.testing.assert_close(out, expected)
    gradients = [torch.autograd.grad(x.sum(), (query, key, value)) for x in (out, expected)]
    torch.testing.assert_close(gradients[0], gradients[1])
    mask = torch.zeros(1, 1, 4, 6, dtype=torch.bool)
    mask[..., 5] = True
    hidden = kept & (torch.arange(6 * SIZE) < 5 * SIZE)  # all that the mask keeps is hidden
    assert not block_sparse_attention(query, key, value, mask, SIZE, impl=impl, key_mask=hidden).any()


def test_a_key_mask_where_no_kernel_takes_one_is_refused_and_auto_passes_these_over():
    mask, kept = torch.ones(1, 1, 4, 6, dtype=torch.bool), torch.ones(6 * SIZE, dtype=torch.bool)
    with pytest.raises(ImplUnavailableError, match="'triton' cannot run here: it takes no key_mask; gather, flex"):
        block_sparse_attention(*_inputs(), mask, SIZE, impl="triton", key_mask=kept)
    with pytest.raises(ValueError, match=r"key_mask is a boolean \[96\], got torch.float32 \[96\]"):
        block_sparse_attention(*_inputs(), mask, SIZE, key_mask=kept.float())
    assert "no key_mask" in choose_impl("cpu", torch.float32, 16, False, key_mask=True)[1]


def test_nothing_is_imported_while_attention_runs(monkeypatch):
    inputs, mask = _inputs(), _irregular_mask()
    block_sparse_attention(*inputs, mask, SIZE)
    imported = []

    def recorded(load):
        return lambda name, *rest, **options: imported.append(name) or load(name, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", recorded(builtins.__import__))
        patch.setattr(importlib._bootstrap, "_gcd_import", recorded(importlib._bootstrap._gcd_import))
        block_sparse_attention(*inputs, mask, SIZE)
        packed_attention(*(x[:1, :, : 4 * SIZE] for x in inputs), [SIZE, 3 * SIZE])
    assert not [name for name in imported if name.startswith("flashvsr")]
