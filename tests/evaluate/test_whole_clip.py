"""Models that run on a whole clip."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flashvsr.decoders import TinyConditionalDecoder
from flashvsr.evaluate import WholeClip, resize, without_latents, without_velocity
from flashvsr.evaluate.whole_clip import ShuffledLatents, scaled_latents


def _noise(seed, count, size):
    return torch.randn(1, 16, count, size[0] // 8, size[1] // 8, generator=torch.Generator().manual_seed(seed % 2**31))


def _video(frames: int, height: int = 20, width: int = 35) -> torch.Tensor:
    return torch.randint(
        0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


class _Decoder(nn.Module):
    """Returns the LR frames, brightened by the mean of the latents of each step."""

    def forward(self, latents, lr):
        assert lr.shape[2] == 4 * latents.shape[2] - 3
        step = (torch.arange(lr.shape[2]) + 3) // 4
        return lr + latents.mean((1, 3, 4))[:, None, step, None, None], None


@pytest.mark.parametrize("frames", [1, 4, 5, 6, 13, 14])
def test_any_length_and_size_comes_back_upscaled_by_4(frames):
    video = _video(frames)
    shapes = []

    def latents(lr, noise):
        shapes.append((tuple(lr.shape), tuple(noise.shape)))
        return torch.zeros_like(noise)

    out = WholeClip(_Decoder(), latents, _noise)(video, 0)
    assert torch.equal(out, resize(video, (80, 140)))
    ((lr, noise),) = shapes
    assert lr[2] % 8 == 1 and lr[2] - 4 >= frames > lr[2] - 12 and lr[3:] == (128, 256)
    assert noise == (1, 16, (lr[2] - 1) // 4, 16, 32)


def test_padding_mirrors_space_and_repeats_time():
    kept = []

    def latents(lr, noise):
        kept.append(lr)
        return torch.zeros_like(noise)

    WholeClip(_Decoder(), latents, _noise)(_video(2), 0)
    (lr,) = kept
    assert torch.equal(lr[:, :, 2:], lr[:, :, 1:2].expand_as(lr[:, :, 2:]))
    assert torch.equal(lr[..., 80, :], lr[..., 78, :]) and torch.equal(lr[..., 140], lr[..., 138])


def test_a_decoder_alone_sees_zero_latents():
    decoder = TinyConditionalDecoder(channels=(8, 8, 8, 8), residual=True)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    alone = WholeClip(decoder, None, _noise)(_video(3), 0)
    zeros = WholeClip(decoder, lambda lr, noise: torch.zeros_like(noise), _noise)(_video(3), 5)
    noisy = WholeClip(decoder, lambda lr, noise: noise, _noise)(_video(3), 0)
    assert torch.equal(alone, zeros) and not torch.equal(alone, noisy)


def test_the_seed_reaches_the_noise_and_colour_sees_the_content():
    seen = []

    def color(frames, lr, content):
        seen.append(content)
        return frames

    method = WholeClip(_Decoder(), lambda lr, noise: 50 * noise, _noise, color=color)
    assert not torch.equal(method(_video(1), 0), method(_video(1), 1))
    assert torch.equal(method(_video(1), 0), method(_video(1), 0))
    assert seen[0] == (80, 140)


def test_an_ablation_holds_while_its_handle_does():
    class Dit(nn.Module):
        def forward(self, x):
            return x + 1, "state"

    dit, decoder, x = Dit(), _Decoder(), torch.ones(1, 16, 1, 2, 2)
    lr = torch.zeros(1, 3, 1, 16, 16)
    with without_velocity(dit), without_latents(decoder):
        assert torch.equal(dit(x)[0], torch.zeros_like(x)) and dit(x)[1] == "state"
        assert torch.equal(decoder(x, lr)[0], lr)
    assert torch.equal(dit(x)[0], x + 1) and torch.equal(decoder(x, lr)[0], lr + 1)


def test_shuffled_latents_are_those_of_the_other_clip_beside_the_right_frames():
    decoder = _Decoder()
    method = WholeClip(decoder, lambda lr, noise: noise + lr.mean(), _noise)
    dark, bright = _video(6) // 8, 255 - _video(9, 24, 30) // 8
    other = bright[:6, :, :20].tile(1, 1, 1, 2)[..., :35]  # cut and repeated to the shape of the first
    seen = []
    with decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0])):
        method(other, 3)
    expected = resize(dark, (80, 140)).float() / 127.5 - 1
    step = (torch.arange(6) + 3) // 4
    expected = expected + seen[0].mean((0, 1, 3, 4))[step].view(-1, 1, 1, 1)
    got = ShuffledLatents(method, decoder)(dark, 3, bright)
    torch.testing.assert_close(got.float(), expected.add(1).mul(127.5).clamp(0, 255).round(), atol=1, rtol=0)
    assert not torch.equal(got, method(dark, 3))
    assert not decoder._forward_pre_hooks


def test_scaled_latents_lie_between_none_and_all():
    decoder = _Decoder()
    method = WholeClip(decoder, lambda lr, noise: torch.full_like(noise, 0.5), _noise)
    video = _video(5) // 4
    brightness = []
    for factor in (0.0, 0.5, 1.0):
        with scaled_latents(decoder, factor):
            brightness.append(float(method(video, 0).float().mean()))
    assert brightness[2] - brightness[1] == pytest.approx(brightness[1] - brightness[0], abs=0.5)
    assert brightness[2] - brightness[0] == pytest.approx(0.5 * 127.5, abs=0.5)
