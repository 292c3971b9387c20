"""FlexAttention on block lists: forward on a CPU, forward and backward on a GPU."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from flashvsr.attention.impl import flex as impl_flex
from flashvsr.attention.impl import reference as impl_reference

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))),
    reason="no C++ compiler: FlexAttention was not run on the CPU",
)


def irregular_mask(batch: int, heads: int, rows: int, columns: int) -> Tensor:
    """About half of the blocks, differing by head, with one row that keeps nothing."""
    mask = torch.rand(batch, heads, rows, columns) < 0.5
    mask[:, 0, 1] = False
    return mask


def in_float64(
    query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], mask: Tensor, scale: float
) -> Tensor:
    """Masked softmax attention in float64, every step written out, for blocks of 128."""
    query, key, value = query.double(), torch.cat(keys, 2).double(), torch.cat(values, 2).double()
    mask = mask.repeat_interleave(128, 2).repeat_interleave(128, 3)
    weights = (query @ key.transpose(2, 3) * scale).exp() * mask
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ value


def test_a_torch_that_cannot_skip_the_lists_of_the_backward_pass_makes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    block_mask_class = impl_flex.flex().BlockMask

    def older(*lists: Tensor, BLOCK_SIZE: int, mask_mod: None, seq_lengths: tuple[int, int]) -> object:
        return block_mask_class.from_kv_blocks(
            *lists, BLOCK_SIZE=BLOCK_SIZE, mask_mod=mask_mod, seq_lengths=seq_lengths
        )

    older_torch = SimpleNamespace(BlockMask=SimpleNamespace(from_kv_blocks=older))
    monkeypatch.setattr(impl_flex, "_without_backward_lists", impl_flex._without_backward_lists.__wrapped__)
    monkeypatch.setattr(impl_flex, "flex", lambda: older_torch)
    monkeypatch.setattr(impl_flex, "compiled_flex_attention", lambda: lambda *qkv, block_mask, scale: block_mask)
    query = torch.randn(1, 1, 256, 32)
    mask = impl_flex.attend(
        query, (query,), (query,), torch.eye(2, dtype=torch.bool)[None, None], block_size=128, scale=1
    )
    assert mask.full_q_num_blocks.tolist() == [[[1, 1]]]


@pytest.mark.slow  # torch.compile builds C++ for 10 to 20 seconds
@needs_compiler
def test_the_forward_pass_on_a_cpu_equals_the_reference() -> None:
    torch.manual_seed(0)
    query, *pieces = (torch.randn(2, tokens, 3, 32).transpose(1, 2) for tokens in (384, 256, 128, 256, 128))
    keys, values = tuple(pieces[:2]), tuple(pieces[2:])
    mask = irregular_mask(2, 3, 3, 3)
    shared = mask[:1, :1].expand(2, 3, 3, 3)
    for block_mask in (mask, shared, mask.mT.contiguous().mT):  # the last is the first in other strides
        arguments = (query, keys, values, block_mask)
        out = impl_flex.attend(*arguments, block_size=128, scale=0.2)
        torch.testing.assert_close(out, impl_reference.attend(*arguments, block_size=128, scale=0.2))
        assert out[:, 0, 128:256].count_nonzero() == 0


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_output_and_gradients_err_at_most_twice_as_much_as_the_reference(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    inputs = [
        torch.randn(2, tokens, 3, 128, device="cuda").to(dtype).transpose(1, 2).requires_grad_()
        for tokens in (1024, 1536, 1024, 1536, 1024)
    ]
    arguments = inputs[0], tuple(inputs[1:3]), tuple(inputs[3:]), irregular_mask(2, 3, 8, 20).cuda()
    grad = torch.randn_like(inputs[0])

    def with_gradients(out: Tensor) -> list[Tensor]:
        return [x.double() for x in (out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype)))]

    exact = with_gradients(in_float64(*arguments, 128**-0.5))
    reference, ours = (
        with_gradients(impl.attend(*arguments, block_size=128, scale=128**-0.5)) for impl in (impl_reference, impl_flex)
    )
    for got, theirs, true in zip(ours, reference, exact, strict=True):
        assert (got - true).norm() <= 2 * (theirs - true).norm()


@pytest.mark.gpu
def test_on_a_gpu_blocks_smaller_than_its_tiles_are_refused() -> None:
    x = torch.zeros(1, 1, 64, 64, device="cuda")
    with pytest.raises(ValueError, match="multiple of 128 tokens on a GPU, got 64"):
        impl_flex.attend(x, (x,), (x,), torch.ones(1, 1, 1, 1, device="cuda").bool(), block_size=64, scale=1.0)


def test_block_lists_name_the_kept_columns_in_order() -> None:
    torch.manual_seed(2)
    mask = irregular_mask(2, 3, 4, 50)
    counts, indices = impl_flex.list_kept_blocks(mask)
    assert counts.dtype == indices.dtype == torch.int32
    for row, count, index in zip(mask.flatten(0, 2), counts.flatten(), indices.flatten(0, 2), strict=True):
        assert index[:count].equal(row.nonzero()[:, 0].int())


@pytest.mark.parametrize(
    ("device", "dtype", "head_dim", "requires_grad", "words"),
    [
        ("cpu", torch.float32, 64, True, "no backward pass"),
        ("cpu", torch.float64, 64, False, "float64"),
        ("cpu", torch.float32, 8, False, "head dim 8"),
        ("meta", torch.float32, 64, False, "'meta'"),
    ],
)
def test_unavailable_says_what_is_in_the_way(
    device: str, dtype: torch.dtype, head_dim: int, requires_grad: bool, words: str
) -> None:
    assert words in str(impl_flex.unavailable(torch.device(device), dtype, head_dim, requires_grad))


def test_without_a_compiler_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "C++ compiler" in str(impl_flex.unavailable(torch.device("cpu"), torch.float32, 64, False))
