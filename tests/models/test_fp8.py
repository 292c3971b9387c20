import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import gelu

import flashvsr
from flashvsr.models.dit_blocks import FeedForward
from flashvsr.models.fp8 import FP8, Fp8Linear, quantize_rows
from tests.small_folder import save_small_system


def _error(x: torch.Tensor, exact: torch.Tensor) -> float:
    return float((x - exact).norm() / exact.norm())


def test_every_row_reaches_the_largest_value_and_no_row_spoils_another():
    torch.manual_seed(0)
    x = torch.randn(6, 64) * torch.tensor([1e-6, 1, 1, 1, 1, 1e6])[:, None]
    x[3] = 0
    rows, scales = quantize_rows(x)
    assert (rows.float().abs().amax(1)[[0, 1, 2, 4, 5]] == torch.finfo(FP8).max).all()
    assert not rows[3].float().any()
    for row in (0, 1, 5):
        assert 0.01 < _error(rows[row].float() * scales[row], x[row]) < 0.04


def test_a_layer_errs_by_percents_and_puts_the_gelu_before():
    torch.manual_seed(0)
    exact, x = torch.nn.Linear(256, 128).requires_grad_(False), torch.randn(2, 7, 256)
    layer = Fp8Linear(exact)
    assert 0.01 < _error(layer(x), exact(x)) < 0.06
    assert 0.01 < _error(layer(x, gelu=True), exact(gelu(x, approximate="tanh"))) < 0.06


def test_a_feed_forward_network_in_8_bits_is_near_the_exact_one():
    torch.manual_seed(0)
    network, x = FeedForward(64, 256).requires_grad_(False), torch.randn(2, 9, 64)
    exact = network(x)
    network.to_fp8()
    assert [type(layer) for layer in (network[0], network[2])] == [Fp8Linear, Fp8Linear]
    assert 0.01 < _error(network(x), exact) < 0.1


def test_a_system_takes_the_mode_only_when_asked(tmp_path):
    save_small_system(tmp_path / "model")
    systems = [flashvsr.load(tmp_path / "model", device="cpu", dtype="fp32", fp8=fp8) for fp8 in (False, True)]
    kinds = [type(system.dit.blocks[0].ffn[0]) for system in systems]
    assert kinds == [torch.nn.Linear, Fp8Linear]
    latents = torch.randn(1, 16, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    exact, fast = (system.dit(latents, torch.tensor([1000.0]))[0] for system in systems)
    assert 0 < _error(fast, exact) < 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("use_gelu", [False, True])
def test_on_a_gpu_rows_and_products_are_those_of_the_cpu(use_gelu):
    torch.manual_seed(0)
    exact, x = torch.nn.Linear(1536, 256).bfloat16().requires_grad_(False), torch.randn(300, 1536).bfloat16()
    on_cpu, on_gpu = quantize_rows(x, gelu=use_gelu), quantize_rows(x.cuda(), gelu=use_gelu)
    torch.testing.assert_close(on_gpu[1].cpu(), on_cpu[1])
    assert (on_gpu[0].float().cpu() != on_cpu[0].float()).float().mean() < 0.01
    layer = Fp8Linear(exact)
    expected = layer(x, gelu=use_gelu).float()
    assert _error(layer.cuda()(x.cuda(), gelu=use_gelu).float().cpu(), expected) < 0.01


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernel itself was tested")
def test_the_kernel_scales_rows_under_the_interpreter():
    # in fp16: the interpreter of Triton 3.8 rounds to e4m3 wrongly where the exponent grows
    code = (
        "import torch\n"
        "from flashvsr.kernels.quantize import launch_quantize\n"
        "torch.manual_seed(0)\n"
        "x = torch.randn(5, 24)\n"
        "x[2] = 0\n"
        "for gelu in (False, True):\n"
        "    rows, scales = launch_quantize(x, torch.float16, gelu)\n"
        "    meant = torch.nn.functional.gelu(x, approximate='tanh') if gelu else x\n"
        "    torch.testing.assert_close(rows.float() * scales, meant, rtol=1e-3, atol=1e-5)\n"
        "    assert (rows.float().abs().amax(1)[[0, 1, 3, 4]] == 65504).all()\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
