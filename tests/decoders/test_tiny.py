import pytest
import torch

from flashvsr.decoders import TinyConditionalDecoder, TinyDecoder


def _decoder(latents_per_pass: int = 1) -> TinyDecoder:
    torch.manual_seed(0)
    return TinyDecoder(channels=(8, 8, 8, 8), latents_per_pass=latents_per_pass)


def _latents(count: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(1, 16, count, 2, 3)


@pytest.mark.parametrize("lengths", [(1, 1, 1), (1, 2), (2, 1)])
@torch.inference_mode()
def test_chunk_by_chunk_equals_one_pass_without_lr(lengths):
    decoder, latents, state = _decoder(), _latents(3), None
    whole, _ = decoder(latents)
    assert whole.shape == (1, 3, 9, 16, 24)
    pieces = []
    for piece in latents.split(lengths, dim=2):
        frames, state = decoder(piece, None, state)
        pieces.append(frames)
    assert torch.equal(torch.cat(pieces, dim=2), whole)


@torch.inference_mode()
def test_the_lr_frames_are_ignored():
    decoder, latents = _decoder(), _latents(2)
    assert torch.equal(decoder(latents, torch.randn(1, 3, 5, 16, 24))[0], decoder(latents)[0])


@torch.inference_mode()
def test_it_is_the_conditional_network_without_weights_for_the_lr():
    decoder, latents = _decoder(latents_per_pass=2), _latents(2)
    conditional = TinyConditionalDecoder(channels=(8, 8, 8, 8))
    weights = decoder.state_dict()
    first = weights["decoder.1.weight"]
    weights["decoder.1.weight"] = torch.cat([first.new_zeros(8, 768, 3, 3), first], dim=1)
    conditional.load_state_dict(weights, strict=True)
    expected, _ = conditional(latents, torch.randn(1, 3, 5, 16, 24))
    torch.testing.assert_close(decoder(latents)[0], expected, rtol=0, atol=1e-5)


def test_gradients_reach_every_parameter_without_lr():
    decoder = _decoder()
    decoder(_latents(2))[0].square().mean().backward()
    assert [name for name, parameter in decoder.named_parameters() if parameter.grad is None] == []


def test_wrong_latents_are_refused_by_name():
    with pytest.raises(ValueError, match=r"latents must be \[B, 16, T >= 1, H/8, W/8\], got \(1, 16, 0, 2, 3\)"):
        _decoder()(_latents(0))
    with pytest.raises(ValueError, match="latents_per_pass must be at least 1, got -1"):
        _decoder(latents_per_pass=-1)
