"""Packed attention: samples in one sequence do not see each other, whatever computes it."""

import shutil
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from flashvsr.attention.impl import packed_flex as impl_packed_flex
from flashvsr.attention.impl import packed_sdpa as impl_packed_sdpa
from flashvsr.attention.impl import packed_xformers as impl_packed_xformers

LENGTHS = [5, 130, 256, 1, 300, 77]


def packed(tokens: int, dtype: torch.dtype = torch.float32, device: str = "cpu", head_dim: int = 32) -> list[Tensor]:
    """Query, key and value `[1, 3, N, D]` in token-major storage."""
    return [
        torch.randn(1, tokens, 3, head_dim, device=device).to(dtype).transpose(1, 2).requires_grad_() for _ in range(3)
    ]


def one_by_one(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float) -> Tensor:
    """Attention written out in the dtype of the input under the mask of samples, N x N."""
    sample = torch.repeat_interleave(torch.tensor(lengths)).to(query.device)
    scores = query @ key.transpose(2, 3) * scale
    return scores.masked_fill(sample[:, None] != sample, float("-inf")).softmax(-1) @ value


def test_sdpa_equals_attention_under_the_mask_of_samples() -> None:
    torch.manual_seed(0)
    query, key, value = packed(sum(LENGTHS))
    out = impl_packed_sdpa.attend_packed(query, key, value, LENGTHS, scale=0.2)
    torch.testing.assert_close(out, one_by_one(query, key, value, LENGTHS, 0.2))
    assert out.transpose(1, 2).is_contiguous()
    assert not torch.allclose(out, scaled_dot_product_attention(query, key, value, scale=0.2), atol=1e-2)


def test_sdpa_passes_gradcheck() -> None:
    torch.manual_seed(1)
    inputs = packed(6, torch.float64, head_dim=4)
    assert torch.autograd.gradcheck(lambda *x: impl_packed_sdpa.attend_packed(*x, [1, 3, 2], scale=0.7), inputs)


@pytest.mark.parametrize("lengths", [LENGTHS, [128, 128, 256], [7], [384, 1], [1] * 200])
def test_document_mask_lists_exactly_the_blocks_that_hold_visible_pairs(lengths: list[int]) -> None:
    mask = impl_packed_flex.document_mask(tuple(lengths), torch.device("cpu"))
    total = sum(lengths)
    blocks = -(-total // 128)
    sample = torch.full((blocks * 128,), -1)
    sample[:total] = torch.repeat_interleave(torch.tensor(lengths))
    visible = (sample[:, None] == sample) & (sample >= 0)
    visible = visible.unflatten(0, (blocks, 128)).unflatten(2, (blocks, 128))  # [blocks, 128, blocks, 128]
    full = visible.all(3).all(1)

    def dense(counts: Tensor, indices: Tensor) -> Tensor:
        kept = torch.zeros(blocks, blocks, dtype=torch.bool)
        for row in range(blocks):
            kept[row, indices[0, 0, row, : counts[0, 0, row]].long()] = True
        return kept

    assert dense(mask.full_kv_num_blocks, mask.full_kv_indices).equal(full)
    assert dense(mask.kv_num_blocks, mask.kv_indices).equal(visible.any(3).any(1) & ~full)


def test_a_document_mask_made_in_inference_mode_can_be_used_in_training() -> None:
    with torch.inference_mode():
        mask = impl_packed_flex.document_mask((3, 141), torch.device("cpu"))
    assert not any(x.is_inference() for x in (mask.kv_indices, mask.full_kv_indices, mask.kv_num_blocks))


@pytest.mark.slow  # torch.compile builds C++ for 10 to 20 seconds
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++: FlexAttention was not run on the CPU")
def test_flex_on_a_cpu_equals_attention_under_the_mask_of_samples() -> None:
    torch.manual_seed(2)
    for lengths in (LENGTHS, [128, 513, 128]):
        query, key, value = (x.detach() for x in packed(769))
        out = impl_packed_flex.attend_packed(query, key, value, lengths, scale=0.2)
        torch.testing.assert_close(out, one_by_one(query, key, value, lengths, 0.2))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("impl", [impl_packed_xformers, impl_packed_flex, impl_packed_sdpa], ids=lambda m: m.__name__)
def test_output_and_gradients_err_at_most_twice_as_much_as_plain_attention(impl, dtype: torch.dtype) -> None:
    reason = impl.unavailable(torch.device("cuda"), dtype, 128, True)
    if reason:
        pytest.skip(f"not checked: {reason}")
    torch.manual_seed(3)
    inputs = packed(sum(LENGTHS), dtype, "cuda", 128)
    grad = torch.randn_like(inputs[0])

    def with_gradients(out: Tensor) -> list[Tensor]:
        return [x.double() for x in (out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype)))]

    exact = with_gradients(one_by_one(*(x.double() for x in inputs), LENGTHS, 0.1))
    plain = with_gradients(one_by_one(*inputs, LENGTHS, 0.1))
    ours = with_gradients(impl.attend_packed(*inputs, LENGTHS, scale=0.1))
    for got, theirs, true in zip(ours, plain, exact, strict=True):
        assert (got - true).norm() <= 2 * (theirs - true).norm()


def test_xformers_is_refused_on_a_cpu_with_a_reason() -> None:
    reason = impl_packed_xformers.unavailable(torch.device("cpu"), torch.float32, 64, False)
    assert "xformers" in str(reason)


def test_importing_xformers_prints_nothing() -> None:
    pytest.importorskip("xformers", reason="xformers is not installed: its import was not tried")
    code = "from flashvsr.attention.impl import packed_xformers as x; x._load_quietly().memory_efficient_attention"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""


def test_importing_the_packed_implementations_does_not_import_xformers() -> None:
    code = "import sys\nfrom flashvsr.attention.impl import packed_xformers as x\nsys.exit('xformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
