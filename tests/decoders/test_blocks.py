import pytest
import torch
from torch import nn
from torch.nn import functional

from flashvsr.decoders import TinyDecoder, TinyDecoderState
from flashvsr.decoders.blocks import MemBlock, TimeGrow, upsampling_kernels
from flashvsr.kernels.convolutions import enlarge


def _channels_last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("times", [1, 2])
def test_the_transposed_convolution_equals_upsampling_growing_and_convolving(times):
    torch.manual_seed(0)
    grow, conv = TimeGrow(6, times).double(), nn.Conv2d(6, 5, 3, padding=1, bias=False).double()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    frames = grow.conv(functional.interpolate(x, scale_factor=2)).unflatten(1, (times, 6)).unbind(1)
    plain = torch.stack([conv(frame) for frame in frames])
    fused = torch.stack([enlarge(x, kernel) for kernel in upsampling_kernels(grow, conv)])
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-12)


@torch.inference_mode()
def test_the_transposed_convolution_is_about_as_exact_in_bf16_as_the_three_operations():
    torch.manual_seed(0)
    grow, conv = TimeGrow(64, 2), nn.Conv2d(64, 64, 3, padding=1, bias=False)
    x = torch.randn(1, 64, 16, 16)
    exact = torch.stack([enlarge(x, kernel) for kernel in upsampling_kernels(grow, conv)])
    grow, conv, x = grow.bfloat16(), conv.bfloat16(), x.bfloat16()
    fused = torch.stack([enlarge(x, kernel) for kernel in upsampling_kernels(grow, conv)]).float()
    frames = grow.conv(functional.interpolate(x, scale_factor=2)).unflatten(1, (2, 64)).unbind(1)
    plain = torch.stack([conv(frame) for frame in frames]).float()
    assert (fused - exact).norm() < 1.5 * (plain - exact).norm()


def test_a_memory_block_convolves_its_input_stacked_on_the_frame_before():
    torch.manual_seed(0)
    block = MemBlock(4)
    x, past = _channels_last(1, 4, 6, 5), _channels_last(1, 4, 6, 5)
    expected = torch.relu(block.conv(torch.cat([x, past], dim=1)) + x)
    torch.testing.assert_close(block(x, past)[0], expected)


def test_a_memory_block_treats_frames_together_as_one_after_the_other():
    torch.manual_seed(0)
    block = MemBlock(4)
    frames, past = torch.randn(2, 3, 4, 6, 5), _channels_last(2, 4, 6, 5)  # [B, T, C, h, w]
    together, last = block(frames.flatten(0, 1).contiguous(memory_format=torch.channels_last), past)
    assert torch.equal(last, frames[:, -1])
    assert together.is_contiguous(memory_format=torch.channels_last)
    for index, out in enumerate(together.unflatten(0, (2, 3)).unbind(1)):
        alone, past = block(frames[:, index].contiguous(memory_format=torch.channels_last), past)
        torch.testing.assert_close(alone, out)


def test_a_consumed_state_can_be_neither_used_nor_copied():
    state = TinyDecoderState([torch.zeros(1, 4, 2, 2) for _ in range(9)])
    state.take()
    for use in (state.take, state.clone, state.state_dict):
        with pytest.raises(RuntimeError, match="consumed by an earlier call"):
            use()


def test_a_saved_state_with_other_keys_is_refused():
    with pytest.raises(ValueError, match=r"past.0 to past.8, got \['past.0'\]"):
        TinyDecoderState.from_state_dict({"past.0": torch.zeros(1, 4, 2, 2)})


@pytest.mark.gpu
@torch.no_grad()
def test_validation_under_autocast_runs_the_fused_convolutions_only_where_one_dtype_meets():
    torch.manual_seed(0)
    decoder = TinyDecoder(channels=(8, 8, 8, 8)).cuda()
    latents = torch.randn(1, 16, 2, 4, 4, device="cuda")
    exact, _ = decoder(latents)
    with torch.autocast("cuda", torch.bfloat16):
        rounded, _ = decoder(latents)
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.05)
