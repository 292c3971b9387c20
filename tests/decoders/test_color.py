import pytest
import torch

from flashvsr.decoders import adain_color, wavelet_color

BOTH = pytest.mark.parametrize("correct", [adain_color, wavelet_color])


@pytest.mark.parametrize(("correct", "name"), [(adain_color, "adain"), (wavelet_color, "wavelet")])
def test_colours_equal_the_released_ones(golden, correct, name):
    saved = golden("colour.pt")
    scale, offset = saved["hq_scale_offset"]
    frames = (saved["hq_u8"].float() / 255 * 2 - 1) * scale + offset
    lr = saved["lq_u8"].float() / 255 * 2 - 1
    stride = saved.get("output_stride", 1)
    torch.testing.assert_close(correct(frames, lr)[..., ::stride, ::stride], saved[name], rtol=0, atol=1e-5)


@BOTH
def test_a_colour_cast_is_removed_and_detail_stays(correct):
    torch.manual_seed(0)
    lr = torch.rand(1, 3, 2, 40, 48) - 0.5
    cast = lr + torch.tensor([0.2, -0.1, 0.05]).view(1, 3, 1, 1, 1)
    torch.testing.assert_close(correct(cast, lr), lr, rtol=0, atol=1e-5)


@BOTH
def test_frames_do_not_see_each_other_and_the_input_stays(correct):
    torch.manual_seed(0)
    frames, lr = torch.randn(2, 3, 3, 24, 16), torch.rand(2, 3, 3, 24, 16)
    before = frames.clone()
    together = correct(frames, lr)
    assert torch.equal(correct(frames[:, :, 1:2], lr[:, :, 1:2]), together[:, :, 1:2])
    assert torch.equal(frames, before)
    assert together.abs().max() <= 1


@BOTH
def test_bf16_frames_are_corrected_in_fp32(correct):
    torch.manual_seed(0)
    frames, lr = torch.randn(1, 3, 1, 24, 16).bfloat16(), torch.rand(1, 3, 1, 24, 16).bfloat16()
    out = correct(frames, lr)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, correct(frames.float(), lr.float()).bfloat16())


@BOTH
def test_constant_frames_and_frames_smaller_than_the_blur_are_legal(correct):
    out = correct(torch.full((1, 3, 1, 5, 7), 0.3), torch.full((1, 3, 1, 5, 7), -0.2))
    torch.testing.assert_close(out, torch.full((1, 3, 1, 5, 7), -0.2))


@BOTH
def test_lr_frames_of_another_size_are_refused(correct):
    with pytest.raises(ValueError, match=r"got \(1, 3, 1, 8, 8\) and \(1, 3, 1, 2, 2\): resize the LR"):
        correct(torch.zeros(1, 3, 1, 8, 8), torch.zeros(1, 3, 1, 2, 2))


def test_colour_statistics_are_exact_where_the_mean_is_far_above_the_deviation():
    torch.manual_seed(0)
    lr = 0.9 + 0.01 * torch.randn(1, 3, 1, 200, 300)
    frames = 0.5 * (lr - 0.9) - 0.8
    (variance, mean), (lr_variance, lr_mean) = (
        torch.var_mean(x.double(), dim=(3, 4), correction=0, keepdim=True) for x in (frames, lr)
    )
    exact = (frames.double() - mean) * ((lr_variance + 1e-5) / (variance + 1e-5)).sqrt() + lr_mean
    torch.testing.assert_close(adain_color(frames, lr).double(), exact.clamp(-1, 1), rtol=0, atol=1e-6)
