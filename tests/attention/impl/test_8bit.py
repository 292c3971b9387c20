"""Attention in 8 bits: the plain form against exact attention, and the kernels against the plain form."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from flashvsr.attention import block_sparse_attention
from flashvsr.attention.choice import AUTO_IMPLS, EIGHT_BIT_IMPLS
from flashvsr.attention.impl import hopper_8bit, plain_8bit, reference, triton_8bit

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
SIZE, D = 32, 32
PLAIN = ["plain_8bit", "plain_int8"]

runs_kernels = pytest.mark.skipif(
    not (ON_GPU or INTERPRETED), reason="no GPU: test_all_of_this_passes_under_the_interpreter runs it in a subprocess"
)


def inputs(*key_blocks: int, offset: float = 0.0) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Queries of three blocks, and pieces of keys and values; the keys share `offset` times a normal."""
    torch.manual_seed(0)
    shared = offset * torch.randn(1, 2, 1, D)
    keys = tuple((torch.randn(1, 2, n * SIZE, D) + shared).to(DEVICE, DTYPE) for n in key_blocks)
    values = tuple(torch.randn(1, 2, n * SIZE, D).to(DEVICE, DTYPE) for n in key_blocks)
    return torch.randn(1, 2, 3 * SIZE, D).to(DEVICE, DTYPE), keys, values


def irregular_mask(columns: int) -> Tensor:
    """About half of the blocks, with one row that keeps nothing and a column nobody keeps."""
    torch.manual_seed(1)
    mask = torch.rand(1, 2, 3, columns) < 0.5
    mask[:, 0, 1] = False
    mask[0, :, :, 2] = False
    return mask.to(DEVICE)


def error(x: Tensor, exact: Tensor) -> float:
    """Relative error in the L2 norm."""
    return ((x.double() - exact.double()).norm() / exact.double().norm()).item()


@pytest.mark.parametrize(("impl", "least", "most"), [("plain_int8", 0.01, 0.02), ("plain_8bit", 0.03, 0.05)])
def test_the_error_is_of_percents_and_a_common_part_of_all_keys_adds_none(impl, least, most):
    mask = irregular_mask(5)
    for offset in (0.0, 10.0):
        query, keys, values = (x if isinstance(x, Tensor) else tuple(y.float() for y in x) for x in inputs(3, 2))
        query = query.float()
        keys = tuple(key + offset * torch.arange(D, device=DEVICE) / D for key in keys)
        exact = reference.attend(query, keys, values, mask, block_size=SIZE, scale=D**-0.5)
        out = block_sparse_attention(query, keys, values, mask, SIZE, impl=impl)
        assert least < error(out, exact) < most


def test_a_row_without_blocks_is_zero_and_one_with_blocks_is_not():
    query, keys, values = inputs(5)
    for impl in PLAIN:
        out = block_sparse_attention(query, keys, values, irregular_mask(5), SIZE, impl=impl)
        assert not out[:, 0, SIZE : 2 * SIZE].any()
        assert out[:, 1, :SIZE].any()


def hides_and_shows_a_nan(impl: str, bad: float) -> None:
    """What is hidden from all, or from a row, changes nothing there; what is visible does not vanish."""
    mask = torch.ones(1, 1, 3, 5, dtype=torch.bool, device=DEVICE)
    mask[..., 3] = False
    mask[:, :, 2, 4] = False
    for part in (0, 1):
        query, *pieces = inputs(5)
        clean = block_sparse_attention(query, *pieces, mask, SIZE, impl=impl)
        pieces[part][0][:, :, 3 * SIZE : 4 * SIZE] = bad
        torch.testing.assert_close(block_sparse_attention(query, *pieces, mask, SIZE, impl=impl), clean)
        pieces[part][0][:, :, 4 * SIZE + 1, 3] = float("nan")
        out = block_sparse_attention(query, *pieces, mask, SIZE, impl=impl)
        assert out[:, :, :SIZE].isnan().any()
        torch.testing.assert_close(out[:, :, 2 * SIZE :], clean[:, :, 2 * SIZE :], rtol=0, atol=0.1)


@pytest.mark.parametrize("impl", PLAIN)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_stays_where_the_mask_lets_it(impl, bad):
    hides_and_shows_a_nan(impl, bad)


def test_gradients_and_masks_of_single_keys_are_refused_and_auto_never_rounds():
    query, keys, values = inputs(5)
    mask = irregular_mask(5)
    for impl in EIGHT_BIT_IMPLS:
        with pytest.raises(RuntimeError, match="no gradients"):
            block_sparse_attention(query.float().requires_grad_(), keys, values, mask, SIZE, impl=impl)
        with pytest.raises(RuntimeError, match="no key_mask"):
            seen = torch.ones(5 * SIZE, dtype=torch.bool, device=DEVICE)
            block_sparse_attention(query, keys, values, mask, SIZE, impl=impl, key_mask=seen)
    assert not set(AUTO_IMPLS) & set(EIGHT_BIT_IMPLS)


@pytest.mark.skipif(ON_GPU or INTERPRETED, reason="the kernels can run")
def test_named_kernels_raise_without_a_gpu():
    for impl in ("triton_8bit", "triton_int8"):
        with pytest.raises(RuntimeError, match="needs an NVIDIA GPU"):
            block_sparse_attention(*inputs(5), irregular_mask(5), SIZE, impl=impl)
    wide = [torch.zeros(1, 2, 128, 128, dtype=torch.bfloat16)] * 3
    with pytest.raises(RuntimeError, match="needs an NVIDIA Hopper GPU"):
        block_sparse_attention(*wide, torch.ones(1, 1, 1, 1, dtype=torch.bool), impl="hopper_8bit")


@pytest.fixture
def right_rounding(monkeypatch):
    """Has the interpreter round to e4m3 as hardware does: its own rounding is wrong where the exponent grows."""
    if INTERPRETED:
        import triton.language as tl
        from triton.runtime import interpreter

        convert = interpreter._convert_float

        def convert_rightly(data, source, target, mode):
            if target != tl.float8e4nv:
                return convert(data, source, target, mode)
            return torch.from_numpy(data).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

        monkeypatch.setattr(interpreter, "_convert_float", convert_rightly)


@runs_kernels
@pytest.mark.parametrize("kind", ["EIGHT_BIT", "INT8"])
@pytest.mark.parametrize("pieces", [(5,), (2, 1, 2)], ids=str)
def test_the_kernels_equal_the_plain_form(kind, pieces, right_rounding):
    query, keys, values = inputs(*pieces, offset=3.0)
    mask, arguments = irregular_mask(5), {"block_size": SIZE, "scale": D**-0.5}
    plain = getattr(plain_8bit, kind).attend(query, keys, values, mask, **arguments)
    out = getattr(triton_8bit, kind).attend(query, keys, values, mask, **arguments)
    assert out.stride() == query.transpose(1, 2).contiguous().transpose(1, 2).stride()
    assert not out[:, 0, SIZE : 2 * SIZE].any()
    assert error(out, plain) < (5e-3 if ON_GPU else 1e-3)  # bf16 output rounds on a GPU; few weights round otherwise
    assert error(plain, reference.attend(query, keys, values, mask, **arguments)) > 1e-2  # what rounding itself costs


@runs_kernels
@pytest.mark.parametrize("kind", ["EIGHT_BIT", "INT8"])
def test_tiles_narrower_than_a_block_give_the_same(kind, right_rounding, monkeypatch):
    from flashvsr.kernels import attention_8bit_launch as launch
    from flashvsr.kernels.attention_triton_launch import Tile

    query, keys, values = inputs(3, 2)
    attend = getattr(triton_8bit, kind).attend
    whole = attend(query, keys, values, irregular_mask(5), block_size=SIZE, scale=0.2)
    half = Tile(16, 16 if kind == "INT8" else 32, 4, 2)
    monkeypatch.setattr(launch, "choose_tile", lambda device, fp8_values: half)
    parts = attend(query, keys, values, irregular_mask(5), block_size=SIZE, scale=0.2)
    assert error(parts, whole) < (5e-3 if ON_GPU else 1e-4)


@runs_kernels
@pytest.mark.parametrize("impl", ["triton_8bit", "triton_int8"])
def test_the_kernels_let_a_nan_out_only_where_the_mask_does(impl, right_rounding):
    hides_and_shows_a_nan(impl, float("nan"))


@runs_kernels
def test_values_can_lie_in_the_order_of_an_operand(right_rounding):
    from flashvsr.kernels import attention_8bit_launch as launch

    query, keys, values = inputs(5)
    operands = triton_8bit.operands_of(query, keys, values, SIZE, 1.0)
    mask = torch.ones(1, 2, 3, 5, dtype=torch.bool, device=DEVICE)
    plain, ordered = (
        launch.quantize(operands, mask, torch.float8_e4m3fn, in_operand_order=on).values[0].float()
        for on in (False, True)
    )
    fours = [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]  # pairs of the eights, four in a row
    assert torch.equal(ordered, plain[..., [*fours, *(16 + token for token in fours)]])


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs an H100 or H200"
)
@pytest.mark.parametrize("rows", [3, 40])
def test_the_hopper_kernel_equals_the_plain_form(rows):
    generator = torch.Generator("cuda").manual_seed(0)
    query, *pieces = (
        torch.randn(1, n * 128, 2, 128, device="cuda", dtype=torch.bfloat16, generator=generator).transpose(1, 2)
        for n in (rows, 5, rows, 5, rows)
    )
    mask = torch.rand(1, 2, rows, 5 + rows, device="cuda", generator=generator) < 0.5
    mask[0, 0, 1] = False
    mask[0, 1, 1] = torch.arange(5 + rows, device="cuda") == 4  # a single block
    case = (query, tuple(pieces[:2]), tuple(pieces[2:]))
    plain = plain_8bit.EIGHT_BIT.attend(*case, mask, block_size=128, scale=128**-0.5)
    out = hopper_8bit.attend(*case, mask, block_size=128, scale=128**-0.5)
    assert not out[:, 0, 128:256].any()
    assert error(out, plain) < 5e-3


@runs_kernels
def test_a_small_case_tells_right_kernels_from_wrong_ones(right_rounding, monkeypatch):
    case = {"fp8_values": True, "device": torch.device(DEVICE), "dtype": DTYPE}
    disproof = triton_8bit.disproof.__wrapped__
    assert disproof(**case) is None
    right = triton_8bit.Triton8Bit.attend
    for wrong in (1.02, float("nan")):
        monkeypatch.setattr(
            triton_8bit.Triton8Bit, "attend", lambda *args, wrong=wrong, **options: right(*args, **options) * wrong
        )
        assert "off by" in disproof(**case)


@pytest.mark.skipif(ON_GPU or INTERPRETED, reason="the kernels themselves were tested")
def test_all_of_this_passes_under_the_interpreter():
    pytest.importorskip("triton", reason="triton is not installed: its kernels were not interpreted")
    kernels = "kernels_ or tiles or operand or small_case"  # the plain form needs no interpreter
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", kernels, __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout
