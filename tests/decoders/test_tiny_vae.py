import pytest
import torch

from flashvsr.decoders import TinyVAE

SIZES = {"encoder_channels": (4, 4, 4), "channels": (4, 4, 4, 4)}


def _vae(**arguments) -> TinyVAE:
    torch.manual_seed(0)
    vae = TinyVAE(**{**SIZES, **arguments})
    vae.mean.normal_()
    vae.mean_square.copy_(vae.mean.square() + torch.rand_like(vae.mean) + 0.5)
    return vae


def _clip(frames: int = 13, batch: int = 1) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(batch, 3, frames, 16, 24) * 2 - 1


def test_it_has_the_geometry_of_the_wan_vae_and_about_two_million_parameters():
    vae = TinyVAE()
    latents, _ = vae.encode(_clip(9))
    assert latents.shape == (1, 16, 3, 2, 3)
    assert vae(latents)[0].shape == (1, 3, 9, 16, 24)
    for part in (vae.encoder, vae.decoder):
        assert 0.8e6 < sum(parameter.numel() for parameter in part.parameters()) < 1.4e6


@pytest.mark.parametrize("lengths", [(1, 1, 1, 1), (1, 3), (3, 1)])
@torch.inference_mode()
def test_chunk_by_chunk_equals_one_pass_in_both_directions(lengths):
    vae, frames = _vae(), _clip(13)
    latents, _ = vae.encode(frames)
    decoded, _ = vae.decode(latents)
    encoder_state = decoder_state = None
    latent_pieces, frame_pieces, start = [], [], 0
    for length in lengths:
        count = 4 * length - (3 if encoder_state is None else 0)
        piece, encoder_state = vae.encode(frames[:, :, start : start + count], encoder_state)
        out, decoder_state = vae.decode(piece, decoder_state)
        start += count
        latent_pieces.append(piece)
        frame_pieces.append(out)
    assert torch.equal(torch.cat(latent_pieces, 2), latents)
    assert torch.equal(torch.cat(frame_pieces, 2), decoded)


def test_training_and_shared_passes_change_rounding_only():
    vae, frames = _vae(), _clip(13, batch=2)
    together = vae.encode(frames)[0]
    assert together.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(vae.encode(frames)[0], together, rtol=0, atol=1e-5)
        shared = _vae(latents_per_pass=3).encode(frames)[0]
    torch.testing.assert_close(shared, together, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_later_frames_do_not_change_earlier_latents():
    vae, frames = _vae(), _clip(9)
    before, _ = vae.encode(frames)
    frames[:, :, 5:] *= -1
    after, _ = vae.encode(frames)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2], after[:, :, 2])


def test_gradients_are_those_of_finite_differences():
    vae = _vae(encoder_channels=(2, 2, 2), channels=(2, 2, 2, 2)).double()
    frames = _clip(5)[..., :8, :8].double().requires_grad_()
    noise = torch.randn(1, 16, 2, 1, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: vae.reconstruct(x, noise), (frames,), atol=1e-6, fast_mode=True)


@torch.no_grad()
def test_latents_have_unit_variance_once_statistics_are_measured():
    vae, frames = _vae(), _clip(13, batch=4)
    _, mean, _ = vae.reconstruct(frames, torch.zeros(4, 16, 4, 2, 3))
    vae.update_statistics(mean)  # the first update replaces what was there
    latents, _ = vae.encode(frames)
    assert latents.mean((0, 2, 3, 4)).abs().max() < 1e-4
    torch.testing.assert_close(latents.var((0, 2, 3, 4), correction=0), torch.ones(16), rtol=0, atol=1e-2)
    vae.update_statistics(mean + 1)  # counts as much as the first
    torch.testing.assert_close(vae.mean.flatten(), mean.mean((0, 2, 3, 4)) + 0.5, rtol=0, atol=1e-5)


@torch.no_grad()
def test_reconstruct_is_decode_of_encode_whatever_the_statistics():
    vae, frames = _vae(), _clip(9)
    expected, _ = vae.decode(vae.encode(frames)[0])
    found, _, _ = vae.reconstruct(frames, torch.zeros(1, 16, 3, 2, 3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_statistics_are_saved_with_the_weights():
    saved = _vae().state_dict()
    fresh = TinyVAE(**SIZES)
    fresh.load_state_dict(saved, strict=True)
    assert torch.equal(fresh.std, _vae().std)


def test_under_autocast_latents_are_fp32_and_close():
    vae, frames = _vae(), _clip(5)
    exact = vae.encode(frames)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = vae.encode(frames)[0]
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0, atol=0.05)


@torch.inference_mode()
def test_wrong_input_is_refused_by_name():
    vae = _vae()
    with pytest.raises(ValueError, match=r"T = 4n \+ 1 in the first call of a stream, got \(1, 3, 4, 16, 24\)"):
        vae.encode(_clip(4))
    _, state = vae.encode(_clip(5))
    branch = state.clone()
    with pytest.raises(ValueError, match="T = 4n in a later call"):
        vae.encode(_clip(5), state)
    with pytest.raises(ValueError, match="start a new stream with state=None"):
        vae.encode(_clip(4)[..., :16], state)
    vae.encode(_clip(4), state)
    with pytest.raises(RuntimeError, match="consumed by an earlier call"):
        vae.encode(_clip(4), state)
    vae.encode(_clip(4), branch)
    with pytest.raises(ValueError, match=r"latents must be \[B, 16, T >= 1"):
        vae.decode(torch.zeros(1, 8, 1, 2, 3))
