import copy
import json
from pathlib import Path

import pytest
import torch

from flashvsr.decoders import WanVAE, WanVAEState

MANIFEST = Path(__file__).parents[1] / "golden" / "manifest_decoders.json"


@pytest.fixture(scope="module")
def released(golden):
    """The tiny VAE of the golden file, and the file."""
    saved = golden("wan_vae.pt")
    vae = WanVAE(base_width=saved["config"]["dim"], mean=saved["mean"].tolist(), std=saved["std"].tolist())
    vae.load_state_dict({name: tensor.float() for name, tensor in saved["state_dict"].items()}, strict=True)
    return vae, saved


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return WanVAE(base_width=4)


def _video(frames: int, height: int = 16, width: int = 24) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(1, 3, frames, height, width) * 2 - 1


def _latents(count: int) -> torch.Tensor:
    torch.manual_seed(2)
    return torch.randn(1, 16, count, 2, 3)


def _stream(step, x, lengths):
    pieces, state = [], None
    for piece in x.split(lengths, dim=2):
        out, state = step(piece, state)
        pieces.append(out)
    return torch.cat(pieces, dim=2)


@torch.inference_mode()
def test_latents_equal_those_of_the_released_encoder(released):
    vae, saved = released
    latents, _ = vae.encode(saved["video_u8"].float() / 255 * 2 - 1)
    torch.testing.assert_close(latents, saved["latents"], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_frames_equal_those_of_the_released_vae_decoder(released):
    vae, saved = released
    frames, _ = vae.decode(saved["latents"])
    stride = saved.get("output_stride", 1)
    torch.testing.assert_close(frames[..., ::stride, ::stride], saved["decoded"], rtol=0, atol=1e-5)


def test_statistics_of_the_latents_are_the_released_ones(golden):
    saved = golden("wan_vae.pt")
    vae = WanVAE(base_width=4)
    assert torch.equal(vae.mean.flatten(), saved["mean"])
    assert torch.equal(vae.std.flatten(), saved["std"])


def test_vae_parameters_are_named_and_shaped_as_released():
    expected = json.loads(MANIFEST.read_text())["wan_vae"]
    with torch.device("meta"):
        found = WanVAE().state_dict()
    assert {name: list(tensor.shape) for name, tensor in found.items()} == expected


@pytest.mark.parametrize("lengths", [(1, 1, 1, 1), (1, 2, 1), (3, 1), (2, 2)])
@torch.inference_mode()
def test_decoding_piece_by_piece_equals_one_pass(vae, lengths):
    latents = _latents(4)
    whole, _ = vae.decode(latents)
    assert whole.shape == (1, 3, 13, 16, 24)
    assert torch.equal(_stream(vae.decode, latents, lengths), whole)


@pytest.mark.parametrize("lengths", [(1, 4, 4, 4), (1, 8, 4), (5, 8), (9, 4)])
@torch.inference_mode()
def test_encoding_piece_by_piece_equals_one_pass(vae, lengths):
    video = _video(13)
    whole, _ = vae.encode(video)
    assert whole.shape == (1, 16, 4, 2, 3)
    assert torch.equal(_stream(vae.encode, video, lengths), whole)


@torch.inference_mode()
def test_the_decoder_interface_decodes_and_ignores_the_lr(vae):
    latents = _latents(2)
    assert torch.equal(vae(latents, torch.randn(1, 3, 5, 16, 24), None)[0], vae.decode(latents)[0])


@torch.inference_mode()
def test_interleaved_vae_streams_do_not_touch_each_other(vae):
    latents = _latents(2)
    alone = [vae.decode(z)[0] for z in (latents, -latents)]
    frames, states = [[], []], [None, None]
    for step in range(2):
        for index, z in enumerate((latents, -latents)):
            out, states[index] = vae.decode(z[:, :, step : step + 1], states[index])
            frames[index].append(out)
    for index in range(2):
        assert torch.equal(torch.cat(frames[index], dim=2), alone[index])


@pytest.mark.parametrize("side", ["encode", "decode"])
@torch.inference_mode()
def test_a_vae_clone_branches_and_a_saved_state_resumes(vae, side, tmp_path):
    step = getattr(vae, side)
    first, rest = (_video(1), _video(4)) if side == "encode" else (_latents(1), _latents(1) * 2)
    _, state = step(first)
    branch = state.clone()
    torch.save(state.state_dict(), tmp_path / "state.pt")
    expected, _ = step(rest, state)
    resumed = WanVAEState.from_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(step(rest, branch)[0], expected)
    assert torch.equal(step(rest, resumed)[0], expected)
    with pytest.raises(RuntimeError, match="consumed by an earlier call"):
        step(rest, state)


def test_gradients_reach_every_vae_parameter(vae):
    latents, _ = vae.encode(_video(9))
    vae.decode(latents)[0].square().mean().backward()
    without = [name for name, parameter in vae.named_parameters() if parameter.grad is None]
    vae.zero_grad()
    assert without == []


@torch.inference_mode()
def test_the_vae_stays_close_to_fp32_in_bf16(released):
    vae, saved = copy.deepcopy(released[0]).bfloat16(), released[1]
    latents, _ = vae.encode((saved["video_u8"].float() / 255 * 2 - 1).bfloat16())
    frames, _ = vae.decode(saved["latents"].bfloat16())
    exact = released[0].decode(saved["latents"])[0]
    assert latents.dtype == frames.dtype == torch.bfloat16
    for rounded, expected in ((latents, saved["latents"]), (frames, exact)):
        assert (rounded.float() - expected).square().mean() < 1e-3 * expected.square().mean()


@torch.inference_mode()
def test_what_the_vae_cannot_take_is_refused_by_name(vae):
    with pytest.raises(ValueError, match=r"T = 4n \+ 1 in the first call of a stream, got \(1, 3, 4, 16, 24\)"):
        vae.encode(_video(4))
    with pytest.raises(ValueError, match=r"multiples of 8 .* got \(1, 3, 5, 12, 24\)"):
        vae.encode(_video(5, height=12))
    with pytest.raises(ValueError, match=r"latents must be \[B, 16, T >= 1, H/8, W/8\], got \(1, 8, 1, 2, 3\)"):
        vae.decode(_latents(1)[:, :8])
    with pytest.raises(ValueError, match="mean needs 16 values"):
        WanVAE(base_width=4, mean=[0.0])
    _, state = vae.encode(_video(1))
    with pytest.raises(ValueError, match="T = 4n in a later call"):
        vae.encode(_video(5), state)
    with pytest.raises(ValueError, match="state is of the other direction"):
        vae.decode(_latents(1), state)
    with pytest.raises(ValueError, match="start a new stream with state=None"):
        vae.encode(_video(4, height=24), state)
    assert not state.consumed
