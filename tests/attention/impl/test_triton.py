"""The Triton kernels: on a GPU as they are, elsewhere under Triton's interpreter, which a subprocess turns on."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from flashvsr.attention import block_sparse_attention
from flashvsr.attention.impl import triton as impl_triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]

runs_kernels = pytest.mark.skipif(
    not (ON_GPU or INTERPRETED), reason="no GPU: test_all_of_this_passes_under_the_interpreter runs it in a subprocess"
)


def token_major(batch: int, heads: int, tokens: int, head_dim: int, dtype: torch.dtype) -> Tensor:
    """Random `[B, heads, N, D]` as projections leave it: a view of `[B, N, heads, D]`, here inside a wider buffer."""
    x = torch.randn(batch, tokens, 2, heads, head_dim, device=DEVICE).to(dtype)
    return x[:, :, 1].transpose(1, 2).requires_grad_()


def irregular_mask(batch: int, heads: int, rows: int, columns: int) -> Tensor:
    """About half of the blocks, differing by head, with one row that keeps nothing and a column nobody keeps."""
    mask = torch.rand(batch, heads, rows, columns, device=DEVICE) < 0.5
    mask[:, 0, 1] = False
    mask[0, :, :, 2] = False
    return mask


def in_float64(
    query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], mask: Tensor, scale: float
) -> Tensor:
    """Masked softmax attention in float64, every step written out."""
    query, key, value = query.double(), torch.cat(keys, 2).double(), torch.cat(values, 2).double()
    for dim in (2, 3):
        mask = mask.repeat_interleave(
            query.shape[2] // mask.shape[2] if dim == 2 else key.shape[2] // mask.shape[3], dim
        )
    weights = (query @ key.transpose(2, 3) * scale).exp() * mask
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ value


def in_one_product(
    query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], mask: Tensor, scale: float
) -> Tensor:
    """Masked attention over all keys at once in the dtype of the inputs, its softmax in fp32.

    The reference multiplies block by block, so its sums are shorter than those of a kernel.
    """
    key, value = torch.cat(keys, 2), torch.cat(values, 2)
    mask = mask.repeat_interleave(query.shape[2] // mask.shape[2], 2)
    mask = mask.repeat_interleave(key.shape[2] // mask.shape[3], 3)
    scores = (query @ key.transpose(2, 3)).float() * scale
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).masked_fill(~mask.any(-1, keepdim=True), 0.0)
    return weights.to(value.dtype) @ value


def with_gradients(out: Tensor, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The output and the gradients of all inputs, in float64."""
    return [x.double() for x in (out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype)))]


def distance(x: Tensor, exact: Tensor) -> float:
    """Relative error in the L2 norm."""
    return ((x - exact).norm() / exact.norm()).item()


def assert_as_exact_as_plain_attention(
    query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], mask: Tensor, block_size: int
) -> None:
    """Output and gradients err at most twice as much against float64 as plain attention does in the same dtype."""
    scale = query.shape[3] ** -0.5
    inputs = [query, *keys, *values]
    grad = torch.randn_like(query)
    exact = with_gradients(in_float64(query, keys, values, mask, scale), inputs, grad)
    plain = with_gradients(in_one_product(query, keys, values, mask, scale), inputs, grad)
    ours = with_gradients(
        impl_triton.attend(query, keys, values, mask, block_size=block_size, scale=scale), inputs, grad
    )
    for name, got, theirs, true in zip(["out", *range(len(inputs))], ours, plain, exact, strict=True):
        assert distance(got, true) <= 2 * distance(theirs, true), f"gradient {name}" if name != "out" else "output"


@runs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_output_and_gradients_err_at_most_twice_as_much_as_plain_attention(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query = token_major(2, 2, 48, 32, dtype)
    keys = token_major(2, 2, 32, 32, dtype), token_major(2, 2, 48, 32, dtype)
    values = token_major(2, 2, 32, 32, dtype), token_major(2, 2, 48, 32, dtype)
    assert_as_exact_as_plain_attention(query, keys, values, irregular_mask(2, 2, 3, 5), 16)


@runs_kernels
@pytest.mark.parametrize("tiles", ["LARGE", "SMALL", "SINGLE"])
def test_blocks_wider_than_a_tile_are_walked_in_parts(tiles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from flashvsr.kernels import attention_triton_launch as triton_launch

    torch.manual_seed(1)
    monkeypatch.setattr(triton_launch, "choose_tiles", lambda device, dtype: getattr(triton_launch, tiles))
    dtype = torch.float32 if tiles == "SINGLE" or not ON_GPU else torch.float16
    query, key, value = (token_major(1, 1, tokens, 16, dtype) for tokens in (128, 256, 256))
    mask = torch.tensor([[[[True, True]]]], device=DEVICE)
    assert_as_exact_as_plain_attention(query, (key,), (value,), mask, 128)


@runs_kernels
def test_two_pieces_equal_their_concatenation_bit_for_bit() -> None:
    torch.manual_seed(2)
    query = token_major(1, 2, 32, 16, torch.float16)
    keys, values = ([token_major(1, 2, tokens, 16, torch.float16) for tokens in (48, 16)] for _ in range(2))
    mask = irregular_mask(1, 2, 2, 4)
    joined = (torch.cat(keys, 2),), (torch.cat(values, 2),)
    out = impl_triton.attend(query, tuple(keys), tuple(values), mask, block_size=16, scale=0.3)
    assert out.equal(impl_triton.attend(query, *joined, mask, block_size=16, scale=0.3))
    three = [(*pieces[0].split([32, 16], 2), pieces[1]) for pieces in (keys, values)]
    assert out.equal(impl_triton.attend(query, *three, mask, block_size=16, scale=0.3))


@runs_kernels
def test_an_expanded_mask_equals_its_copy_and_is_listed_once() -> None:
    from flashvsr.kernels import attention_triton_launch as triton_launch

    torch.manual_seed(3)
    query, key, value = (token_major(2, 2, 48, 16, torch.float32) for _ in range(3))
    shared = irregular_mask(1, 1, 3, 3)
    per_batch = irregular_mask(2, 1, 3, 3)
    for mask in (shared.expand(2, 2, 3, 3), per_batch.expand(2, 2, 3, 3)):
        outputs = [
            impl_triton.attend(query, (key,), (value,), m, block_size=16, scale=0.2) for m in (mask, mask.contiguous())
        ]
        assert outputs[0].equal(outputs[1])
    assert triton_launch.BlockLists.of(shared.expand(2, 2, 3, 3)).indices.shape == (1, 1, 3, 3)


@runs_kernels
def test_block_lists_name_the_kept_columns_in_order() -> None:
    from flashvsr.kernels import attention_triton_launch as triton_launch

    torch.manual_seed(4)
    mask = torch.rand(1, 2, 3, 1500, device=DEVICE) < 0.3  # more columns than one step of the listing kernel takes
    mask[0, 1, 2] = False
    for m in (mask, mask.transpose(2, 3)[:, :, :40]):
        counts, indices = triton_launch.BlockLists.of(m)
        assert counts.equal(m.sum(-1, dtype=torch.int32))
        for row, count, index in zip(m.flatten(0, 2), counts.flatten(), indices.flatten(0, 2), strict=True):
            assert index[:count].equal(row.nonzero()[:, 0].int())


@runs_kernels
def test_the_order_of_rows_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashvsr.kernels import attention_triton_launch as triton_launch

    torch.manual_seed(5)
    query, key, value = (token_major(1, 2, 48, 16, torch.float32) for _ in range(3))
    mask = irregular_mask(1, 2, 3, 3)
    results = []
    for programs in (0, 4096):
        monkeypatch.setattr(triton_launch, "FULLEST_FIRST_UP_TO", programs)
        out = impl_triton.attend(query, (key,), (value,), mask, block_size=16, scale=0.2)
        results.append((out, torch.autograd.grad(out, query, torch.ones_like(out))[0]))
    for in_order, fullest_first in zip(*results, strict=True):
        assert in_order.equal(fullest_first)


@runs_kernels
def test_a_mask_that_keeps_nothing_gives_zeros_and_zero_gradients() -> None:
    query, key, value = (token_major(1, 1, 32, 16, torch.float32) for _ in range(3))
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool, device=DEVICE)
    out = impl_triton.attend(query, (key,), (value,), mask, block_size=16, scale=0.25)
    out.sum().backward()  # an expanded gradient, with stride 0
    for x in (out, query.grad, key.grad, value.grad):
        assert x.count_nonzero() == 0


@runs_kernels
def test_keys_that_nobody_keeps_are_never_read() -> None:
    torch.manual_seed(6)
    query, key, value = (token_major(1, 2, 48, 16, torch.float32).detach() for _ in range(3))
    mask = irregular_mask(1, 2, 3, 3)
    out = impl_triton.attend(query, (key,), (value,), mask, block_size=16, scale=0.25)
    key[:, :, 32:] = value[:, :, 32:] = float("nan")
    assert out.equal(impl_triton.attend(query, (key,), (value,), mask, block_size=16, scale=0.25))


@runs_kernels
def test_history_without_gradient_leaves_the_other_gradients_alone() -> None:
    torch.manual_seed(7)
    query, key, value = (token_major(1, 1, 32, 16, torch.float32) for _ in range(3))
    past = [token_major(1, 1, 16, 16, torch.float32) for _ in range(2)]
    mask = torch.ones(1, 1, 2, 3, dtype=torch.bool, device=DEVICE)
    gradients = []
    for old_key, old_value in (past, [x.detach() for x in past]):
        out = impl_triton.attend(query, (old_key, key), (old_value, value), mask, block_size=16, scale=0.25)
        gradients.append(torch.autograd.grad(out.square().sum(), (query, key, value)))
    for together, alone in zip(*gradients, strict=True):
        assert together.equal(alone)


@runs_kernels
def test_inference_mode_gives_the_same_bits() -> None:
    torch.manual_seed(8)
    query, key, value = (token_major(1, 1, 32, 16, torch.float32) for _ in range(3))
    mask = irregular_mask(1, 1, 2, 3)[..., 1:]
    out = impl_triton.attend(query, (key,), (value,), mask, block_size=16, scale=0.25)
    with torch.inference_mode():
        assert out.equal(impl_triton.attend(query, (key,), (value,), mask, block_size=16, scale=0.25))


@runs_kernels
def test_the_output_is_token_major() -> None:
    query = token_major(2, 3, 32, 16, torch.float32)
    mask = torch.ones(2, 3, 2, 2, dtype=torch.bool, device=DEVICE)
    out = impl_triton.attend(query, (query,), (query,), mask, block_size=16, scale=0.25)
    assert out.shape == query.shape
    assert out.transpose(1, 2).is_contiguous()


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="no CUDA GPU: the compiled kernels at head dim 128 were not checked")
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_compiled_kernels_err_at_most_twice_as_much_as_plain_attention(dtype: torch.dtype, head_dim: int) -> None:
    torch.manual_seed(9)
    query = token_major(2, 3, 1024, head_dim, dtype)
    keys = token_major(2, 3, 1536, head_dim, dtype), token_major(2, 3, 1024, head_dim, dtype)
    values = token_major(2, 3, 1536, head_dim, dtype), token_major(2, 3, 1024, head_dim, dtype)
    assert_as_exact_as_plain_attention(query, keys, values, irregular_mask(2, 3, 8, 20), 128)


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="no CUDA GPU: the absence of host synchronisation was not checked")
def test_neither_pass_synchronises_with_the_host() -> None:
    query, key, value = (token_major(1, 2, 256, 128, torch.bfloat16) for _ in range(3))
    mask = irregular_mask(1, 2, 2, 3)[..., :2]
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            impl_triton.attend(query, (key,), (value,), mask, block_size=128, scale=0.1).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("block_size", "scale", "message"), [(24, 1.0, "got 24"), (8, 1.0, "got 8"), (16, -1.0, "got -1.0")]
)
def test_what_the_kernels_cannot_do_is_refused(block_size: int, scale: float, message: str) -> None:
    x = torch.zeros(1, 1, block_size, 16)
    with pytest.raises(ValueError, match=message):
        impl_triton.attend(x, (x,), (x,), torch.ones(1, 1, 1, 1).bool(), block_size=block_size, scale=scale)


@runs_kernels
def test_a_mask_of_other_strides_hides_what_is_not_finite_from_output_and_gradients() -> None:
    torch.manual_seed(0)
    inputs = [token_major(1, 2, tokens, 16, torch.float32) for tokens in (64, 64, 64)]
    mask = irregular_mask(1, 2, 4, 4).transpose(2, 3)
    mask[:, :, :, 3] = False
    scale, grad = 0.25, torch.randn_like(inputs[0])
    exact = with_gradients(in_float64(inputs[0], (inputs[1],), (inputs[2],), mask, scale), inputs, grad)
    with torch.no_grad():
        for x in inputs[1:]:
            x[:, :, 48:] = float("nan")
    out = impl_triton.attend(inputs[0], (inputs[1],), (inputs[2],), mask, block_size=16, scale=scale)
    for got, true in zip(with_gradients(out, inputs, grad), exact, strict=True):
        assert distance(got, true) < 1e-5


@runs_kernels
def test_a_graph_of_torch_compile_holds_the_kernels_and_their_gradients() -> None:
    torch.manual_seed(0)
    inputs = [token_major(1, 2, tokens, 16, torch.float32) for tokens in (48, 64, 64)]
    mask, grad = irregular_mask(1, 2, 3, 4), torch.randn_like(inputs[0])

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        pieces = [(x[:, :, :16], x[:, :, 16:]) for x in (key, value)]
        return block_sparse_attention(query, *pieces, mask, 16, impl="triton")

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")(*inputs)
    results = [with_gradients(out, inputs, grad) for out in (compiled, attend(*inputs))]
    for got, eager in zip(*results, strict=True):
        assert distance(got, eager) < 1e-5


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "words"),
    [
        ("cpu", torch.float32, 96, "head dim 96"),
        ("cpu", torch.float64, 64, "float64"),
        ("meta", torch.float16, 64, "meta"),
    ],
)
def test_unavailable_says_what_is_in_the_way(device: str, dtype: torch.dtype, head_dim: int, words: str) -> None:
    reason = impl_triton.unavailable(torch.device(device), dtype, head_dim, False)
    assert reason is not None
    assert words in reason


@pytest.mark.skipif(INTERPRETED, reason="the interpreter is on")
def test_a_cpu_is_told_about_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed: nothing to interpret")
    reason = impl_triton.unavailable(torch.device("cpu"), torch.float32, 64, False)
    assert "TRITON_INTERPRET=1" in str(reason)


def test_importing_it_does_not_import_triton() -> None:
    code = "import sys, flashvsr.attention.impl.triton; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(INTERPRETED or ON_GPU, reason="the kernels run in this process")
def test_all_of_this_passes_under_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed: the kernels were not checked")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-4000:]
