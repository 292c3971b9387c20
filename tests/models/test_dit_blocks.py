import os
import subprocess
import sys

import pytest
import torch

from flashvsr.models.dit_blocks import FeedForward, add_, add_norm_

CASES = """
import torch
from flashvsr.models.dit_blocks import add_, add_norm_
from flashvsr.kernels.residual import launch_add_norm
torch.manual_seed(0)
for dtype in (torch.float32, torch.float16):
    for dim in (96, 128):
        x, y = torch.randn(2, 2, 5, dim).to(dtype)
        gate, weight, bias = torch.randn(3, 1, 1, dim).to(dtype)
        for gated in (gate, None):
            plain, kernel, out = x.clone(), x.clone(), y.clone()
            normed = add_norm_(plain, y, gated, weight, bias, 1e-6, impl="plain")
            launch_add_norm(kernel, out, gated, weight, bias, 1e-6)
            tolerance = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(kernel, plain, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(out, normed, rtol=8 * tolerance, atol=8 * tolerance)
            plain, kernel, out = x.clone(), x.clone(), y.clone()
            add_(plain, y, gated, impl="plain")
            launch_add_norm(kernel, out, gated)
            torch.testing.assert_close(kernel, plain, rtol=tolerance, atol=tolerance)
            assert torch.equal(out, y)
"""


def _inputs(tokens: int = 5, dim: int = 24, device: str = "cpu", dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2, tokens, dim, generator=generator).to(device, dtype)
    gate, weight, bias = torch.randn(3, 1, 1, dim, generator=generator).to(device, dtype)
    return x, y, gate, weight, bias


@pytest.mark.parametrize("gated", [True, False])
def test_the_sum_is_kept_and_its_norm_returned(gated):
    x, y, gate, weight, bias = _inputs()
    total = x + (gate * y if gated else y)
    expected = torch.nn.functional.layer_norm(total, (24,), eps=1e-6) * weight + bias
    normed = add_norm_(x, y.clone(), gate if gated else None, weight, bias, 1e-6)
    torch.testing.assert_close(x, total)
    torch.testing.assert_close(normed, expected)
    assert add_(x, y, gate if gated else None) is x
    torch.testing.assert_close(x, total + (gate * y if gated else y))


def test_tokens_may_have_gates_and_norms_of_their_own():
    x, y, *_ = _inputs()
    gate, weight, bias = torch.randn(3, 1, 5, 24)
    total = x + gate * y
    normed = add_norm_(x, y.clone(), gate, weight, bias, 1e-6)
    torch.testing.assert_close(normed, torch.nn.functional.layer_norm(total, (24,), eps=1e-6) * weight + bias)


def test_a_named_kernel_never_falls_back_and_an_unknown_one_is_refused():
    with pytest.raises(RuntimeError, match="needs a GPU"):
        add_norm_(*_inputs(), 1e-6, impl="triton")
    with pytest.raises(ValueError, match="'fused'"):
        add_(*_inputs()[:3], impl="fused")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1536, 256, 96])
def test_the_kernel_rounds_where_plain_pytorch_does(dtype, dim):
    results = []
    for impl in ("plain", "triton"):
        x, y, gate, weight, bias = _inputs(700, dim, "cuda", dtype)
        normed = add_norm_(x, y, gate, weight, bias, 1e-6, impl=impl)
        results.append((x.clone(), normed.clone(), add_(x, gate.expand_as(x).contiguous(), gate, impl=impl)))
    tolerance = 8 * torch.finfo(dtype).eps
    for plain, kernel in zip(*results, strict=True):
        assert (plain != kernel).float().mean() < (1.0 if dtype == torch.float32 else 0.02)
        torch.testing.assert_close(kernel, plain, rtol=tolerance, atol=4 * tolerance)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel itself was tested")
def test_the_kernel_equals_plain_pytorch_under_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", CASES], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_the_gelu_within_the_product_is_the_tanh_approximation_and_errs_no_more(dtype):
    torch.manual_seed(0)
    exact = FeedForward(256, 512).double()
    x = torch.randn(1, 300, 256, dtype=torch.float64)
    expected = exact(x)
    layer = FeedForward(256, 512).to("cuda", dtype)
    layer.load_state_dict(exact.state_dict())
    x = x.to("cuda", dtype)
    first, activation, second = layer
    plain = second(activation(first(x))).double().cpu()
    fused = layer(x).double().cpu()
    assert (fused - expected).norm() < 1.1 * (plain - expected).norm()
