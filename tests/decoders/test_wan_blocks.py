import pytest
import torch
from torch.nn import functional

from flashvsr.decoders.wan_blocks import CausalConv3d, ChannelNorm, Downsample, Upsample, WanVAEState


def _named(module):
    for name, part in module.named_modules():
        if isinstance(part, CausalConv3d):
            part.name = name or "self"
    return module


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 1, 1), (1, 1, 1)])
def test_a_causal_convolution_frame_by_frame_is_a_conv3d_padded_in_front(kernel):
    torch.manual_seed(0)
    conv, past = _named(CausalConv3d(4, 5, kernel)), {}
    video = torch.randn(2, 4, 6, 5, 7)
    side = kernel[1] // 2
    padded = functional.pad(video, (side, side, side, side, kernel[0] - 1, 0))
    expected = functional.conv3d(padded, conv.weight, conv.bias)
    found = torch.stack([conv(frame, past) for frame in video.unbind(2)], dim=2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_channel_norm_is_the_released_one_and_keeps_zeros():
    torch.manual_seed(0)
    norm, x = ChannelNorm(6), torch.randn(2, 6, 3, 4)
    norm.gamma.data.normal_()
    x[0, :, 0, 0] = 0
    expected = functional.normalize(x, dim=1) * 6**0.5 * norm.gamma.squeeze(-1)
    torch.testing.assert_close(norm(x), expected)
    assert not norm(x)[0, :, 0, 0].any()


def test_downsampling_in_time_takes_the_first_frame_alone_then_pairs():
    torch.manual_seed(0)
    layer, past, frames = _named(Downsample(4, in_time=True)), {}, list(torch.randn(5, 1, 4, 4, 4))
    first = layer(frames[:1], past)
    later = layer(frames[1:], past)
    assert [frame.shape for frame in first + later] == [(1, 4, 2, 2)] * 3
    small = [layer.resample["1"](functional.pad(frame, (0, 1, 0, 1))) for frame in frames]
    torch.testing.assert_close(first[0], small[0])
    torch.testing.assert_close(later[1], layer.time_conv.stacked(tuple(small[2:5])))


def test_upsampling_in_time_keeps_the_first_frame_single_and_unseen():
    torch.manual_seed(0)
    layer = _named(Upsample(4, in_time=True))
    x, first, other = torch.randn(3, 1, 4, 2, 2)
    after = []
    for start in (first, other):
        past = {}
        assert len(layer(start, past)) == 1
        after.append(layer(x, past))
    assert [frame.shape for frame in after[0]] == [(1, 2, 4, 4)] * 2
    assert all(torch.equal(a, b) for a, b in zip(*after, strict=True))


def test_a_consumed_vae_state_can_be_neither_used_nor_copied():
    state = WanVAEState({"decoder.conv1": (torch.zeros(1, 4, 2, 2),)})
    state.take()
    for use in (state.take, state.clone, state.state_dict):
        with pytest.raises(RuntimeError, match="consumed by an earlier call"):
            use()
