import pytest
import torch

from flashvsr.attention.rope import norm_rope, rms_norm
from flashvsr.attention.select import select_from_means
from flashvsr.cli import main
from flashvsr.kernels import KERNELS, ImplUnavailableError, available, proof
from flashvsr.kernels.convolutions import conv_relu, few_channels
from flashvsr.models.dit_blocks import FeedForward, add_
from flashvsr.models.fp8 import Fp8Linear, quantize_rows

X = torch.zeros(1, 8, 16)
PICTURE, WEIGHT = torch.zeros(1, 4, 8, 8), torch.zeros(4, 4, 3, 3)


def _fused_feed_forward():
    network = FeedForward(16, 16).requires_grad_(False)
    network.impl = "fused"
    return network(X)


def _fp8_product():
    layer = Fp8Linear(torch.nn.Linear(16, 16))
    layer.impl = "fp8"
    return layer(X)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU could run them")
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_says_why_it_cannot_run_on_a_cpu(kernel):
    runs, reason = available(kernel, "cpu", torch.float64)
    assert not runs
    assert "GPU" in reason or "float64" in reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU could run them")
@pytest.mark.parametrize(
    "operation",
    [
        lambda: rms_norm(X, X[0, 0], 1e-6, impl="triton"),
        lambda: norm_rope(X, X[0, 0], torch.zeros(8, 4, 2), heads=2, eps=1e-6, impl="triton"),
        lambda: select_from_means(X[None], X[None], torch.ones(8, 8).bool(), budget=1, impl="triton"),
        lambda: add_(X.clone(), X, impl="triton"),
        lambda: quantize_rows(X[0], impl="triton"),
        lambda: conv_relu(PICTURE, WEIGHT, None, impl="cudnn"),
        _fused_feed_forward,
        _fp8_product,
    ],
)
@torch.no_grad()
def test_a_named_kernel_runs_or_raises_and_never_falls_back(operation):
    with pytest.raises(ImplUnavailableError, match=r"cannot run here: it needs a GPU, not device 'cpu'"):
        operation()


@torch.no_grad()
def test_both_ways_to_few_channels_can_be_named_on_a_cpu():
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(3, 4, 3, 3)
    torch.testing.assert_close(few_channels(x, weight, None, impl="wide"), few_channels(x, weight, None, impl="plain"))
    with pytest.raises(ValueError, match="'fast'"):
        few_channels(x, weight, None, impl="fast")


def test_an_unknown_kernel_is_refused_by_name():
    with pytest.raises(ValueError, match="'warp'"):
        available("warp", "cpu", torch.float32)


def test_info_lists_every_kernel_with_its_reason(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert all(kernel in printed for kernel in KERNELS)


@pytest.mark.parametrize(
    ("capability", "words"),
    [((9, 0), "tests passed"), ((8, 9), "only compiled"), ((12, 0), "only compiled"), ((7, 5), "nobody has tried")],
)
def test_what_is_known_of_the_kernels_on_a_gpu_is_said(capability, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert words in proof("cuda:0")
    assert f"{capability[0]}.{capability[1]}" in proof("cuda:0")
