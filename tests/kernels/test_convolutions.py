import pytest
import torch
from torch import nn
from torch.nn import functional

from flashvsr.kernels import convolutions as convolutions
from flashvsr.kernels.convolutions import band_rows, conv_relu, enlarge, few_channels, picture_in_bands


def _stage(dtype: torch.dtype = torch.float64):
    """Features, the enlarging kernel and two convolutions of a small last stage."""
    torch.manual_seed(0)
    half = torch.randn(2, 6, 11, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    kernel, hidden, last = torch.randn(6, 5, 4, 4), nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 3, 3, padding=1)
    return half, kernel.to(dtype), hidden.to(dtype), last.to(dtype)


def _whole(half, kernel, hidden, last):
    return last(torch.relu(hidden(torch.relu(enlarge(half, kernel)))))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 10, 11, 64])
@torch.inference_mode()
def test_a_picture_in_bands_is_the_whole_picture(rows):
    stage = _stage()
    picture = picture_in_bands(*stage, rows)
    assert picture.is_contiguous()
    torch.testing.assert_close(picture, _whole(*stage), rtol=0, atol=1e-12)


@torch.inference_mode()
def test_bands_that_read_one_row_less_show_seams(monkeypatch):
    monkeypatch.setattr(convolutions, "HALO", 1)
    stage = _stage()
    wrong = (picture_in_bands(*stage, 4) - _whole(*stage)).abs().amax((0, 1, 3)) > 1e-6
    assert wrong.any() and not wrong.all()


@torch.inference_mode()
def test_bands_are_as_few_as_their_limit_allows_and_never_without_rows():
    half = torch.empty(1, 32, 384, 640)
    row = 2 * 2 * 640 * 16 * 4  # one row at half resolution is two rows of twice the width
    rows = band_rows(half, 16)
    assert rows * row <= convolutions.BAND_BYTES
    assert -(-384 // rows) == -(-384 * row // convolutions.BAND_BYTES)
    assert rows * -(-384 // rows) - 384 < -(-384 // rows)  # of equal height
    assert band_rows(torch.empty(1, 1, 1, 1, device="meta").expand(64, 128, 384, 40960), 128) == 4 * convolutions.HALO


@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_few_channels_are_those_of_the_plain_convolution(bias):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 6, 12, dtype=torch.float64), torch.randn(3, 5, 3, 3, dtype=torch.float64)
    offset = torch.randn(3, dtype=torch.float64) if bias else None
    plain = functional.conv2d(x, weight, offset, padding=1)
    torch.testing.assert_close(few_channels(x, weight, offset), plain, rtol=0, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_fused_convolution_runs_and_errs_no_more_than_the_separate_steps(dtype, monkeypatch):
    torch.manual_seed(0)
    called = []
    for name in ("cudnn_convolution_relu", "cudnn_convolution_add_relu"):
        fused_call = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, name=name, call=fused_call: called.append(name) or call(*a))
    x, plus = (torch.randn(2, 64, 24, 40, device="cuda").to(memory_format=torch.channels_last) for _ in range(2))
    weight, bias = torch.randn(64, 64, 3, 3, device="cuda") / 24, torch.randn(64, device="cuda")
    inputs = [tensor.to(dtype) for tensor in (x, weight, bias, plus)]
    for count in (3, 4):
        exact = conv_relu(*(tensor.double() for tensor in inputs[:count]))
        separate = conv_relu(*inputs[:count])  # gradients are on: no cuDNN call
        with torch.inference_mode():
            fused = conv_relu(*inputs[:count])
        assert (fused - exact).norm() <= 1.05 * (separate - exact).norm()
    assert called == ["cudnn_convolution_relu", "cudnn_convolution_add_relu"]
