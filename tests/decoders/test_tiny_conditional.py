import json
from pathlib import Path

import pytest
import torch

from flashvsr.decoders import TinyConditionalDecoder, TinyDecoderState

MANIFEST = Path(__file__).parents[1] / "golden" / "manifest_decoders.json"

CHANNELS = (8, 8, 8, 8)


def _decoder(**arguments) -> TinyConditionalDecoder:
    torch.manual_seed(0)
    return TinyConditionalDecoder(**{"channels": CHANNELS, **arguments})


def _clip(latents: int, batch: int = 1, height: int = 2, width: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents, and LR frames of the whole clip: those of latent 0 are one frame, those of the others four."""
    torch.manual_seed(1)
    frames = torch.rand(batch, 3, 4 * latents - 3, 8 * height, 8 * width) * 2 - 1
    return torch.randn(batch, 16, latents, height, width), frames


def _run(decoder, latents, lr, lengths, state=None):
    """Decode in calls of the given numbers of latents; returns all frames."""
    frames, start, shown = [], 0, 0
    for length in lengths:
        count = 4 * length - (3 if state is None else 0)
        out, state = decoder(latents[:, :, start : start + length], lr[:, :, shown : shown + count], state)
        frames.append(out)
        start, shown = start + length, shown + count
    return torch.cat(frames, dim=2), state


@pytest.mark.parametrize("latents_per_pass", [1, 2])
@torch.inference_mode()
def test_frames_equal_those_of_the_released_decoder(golden, latents_per_pass):
    saved = golden("tcdecoder.pt")
    decoder = TinyConditionalDecoder(channels=tuple(saved["config"]["channels"]), latents_per_pass=latents_per_pass)
    decoder.load_state_dict({name: tensor.float() for name, tensor in saved["state_dict"].items()}, strict=True)
    latents, lr = saved["latents"].float(), saved["cond_u8"].float() / 255 * 2 - 1
    stride, state = saved.get("output_stride", 1), None
    for expected in saved["out_chunks"]:
        length, count = (6, 21) if state is None else (2, 8)
        frames, state = decoder(latents[:, :, :length], lr[:, :, :count], state)
        latents, lr = latents[:, :, length:], lr[:, :, count:]
        released = (frames[..., ::stride, ::stride] + 1) / 2  # before the released output*2 - 1
        torch.testing.assert_close(released, expected, rtol=0, atol=1e-5)


def test_parameters_are_named_and_shaped_as_released():
    expected = json.loads(MANIFEST.read_text())["tcdecoder"]
    with torch.device("meta"):
        found = TinyConditionalDecoder().state_dict()
    assert {name: list(tensor.shape) for name, tensor in found.items()} == expected


@pytest.mark.parametrize("lengths", [(1, 1, 1, 1), (1, 3), (2, 2), (3, 1), (1, 2, 1)])
@torch.inference_mode()
def test_chunk_by_chunk_equals_one_pass(lengths):
    decoder, (latents, lr) = _decoder(), _clip(4)
    whole, _ = _run(decoder, latents, lr, (4,))
    pieces, _ = _run(decoder, latents, lr, lengths)
    assert whole.shape == lr.shape
    assert torch.equal(pieces, whole)


@torch.inference_mode()
def test_latents_sharing_a_pass_change_rounding_only():
    latents, lr = _clip(5, batch=2)
    alone, _ = _run(_decoder(), latents, lr, (3, 2))
    shared, _ = _run(_decoder(latents_per_pass=2), latents, lr, (3, 2))
    torch.testing.assert_close(shared, alone, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_samples_of_a_batch_do_not_see_each_other():
    decoder, (latents, lr) = _decoder(), _clip(2, batch=2)
    together, _ = decoder(latents, lr)
    for sample in range(2):
        alone, _ = decoder(latents[sample : sample + 1], lr[sample : sample + 1])
        torch.testing.assert_close(together[sample : sample + 1], alone, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_later_input_does_not_change_earlier_frames():
    decoder, (latents, lr) = _decoder(), _clip(3)
    before, _ = decoder(latents, lr)
    latents[:, :, 2] += 1
    lr[:, :, 5:] *= -1
    after, _ = decoder(latents, lr)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.equal(before[:, :, 5], after[:, :, 5])


@torch.inference_mode()
def test_interleaved_streams_do_not_touch_each_other():
    decoder, (latents, lr) = _decoder(), _clip(4)
    others = -latents, -lr
    alone = [_run(decoder, *clip, (2, 2))[0] for clip in ((latents, lr), others)]
    frames, states = [[], []], [None, None]
    for step, shown in ((slice(0, 2), slice(0, 5)), (slice(2, 4), slice(5, 13))):
        for index, (z, x) in enumerate(((latents, lr), others)):
            out, states[index] = decoder(z[:, :, step], x[:, :, shown], states[index])
            frames[index].append(out)
    assert torch.equal(torch.cat(frames[0], 2), alone[0])
    assert torch.equal(torch.cat(frames[1], 2), alone[1])


@torch.inference_mode()
def test_a_clone_branches_and_a_saved_state_resumes(tmp_path):
    decoder, (latents, lr) = _decoder(), _clip(2)
    _, state = decoder(latents[:, :, :1], lr[:, :, :1])
    branch = state.clone()
    torch.save(state.state_dict(), tmp_path / "state.pt")
    rest = latents[:, :, 1:], lr[:, :, 1:]
    expected, _ = decoder(*rest, state)
    resumed = TinyDecoderState.from_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(decoder(*rest, branch)[0], expected)
    assert torch.equal(decoder(*rest, resumed)[0], expected)
    with pytest.raises(RuntimeError, match="consumed by an earlier call"):
        decoder(*rest, state)


def test_gradients_reach_every_parameter_the_latents_and_the_lr():
    decoder, (latents, lr) = _decoder(), _clip(2)
    latents.requires_grad_()
    lr.requires_grad_()
    frames, _ = _run(decoder, latents, lr, (1, 1))
    frames.square().mean().backward()
    for name, parameter in (*decoder.named_parameters(), ("latents", latents), ("lr", lr)):
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_gradients_are_those_of_finite_differences():
    decoder = _decoder(channels=(2, 2, 2, 2)).double()
    latents, lr = _clip(2, height=1, width=1)
    run = lambda z: decoder(z, lr.double())[0][..., ::3, ::3]  # noqa: E731
    assert torch.autograd.gradcheck(run, (latents.double().requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_an_untrained_residual_decoder_returns_the_lr_frames_exactly(dtype):
    latents, lr = (tensor.to(dtype) for tensor in _clip(3))
    frames, _ = _run(_decoder(residual=True).to(dtype), latents, lr, (2, 1))
    assert torch.equal(frames, lr)


@torch.inference_mode()
def test_lr_frames_keep_their_precision_beside_a_narrower_residual_decoder():
    (latents, lr), decoder = _clip(3), _decoder(residual=True).bfloat16()
    frames, state = decoder(latents[:, :, :2].bfloat16(), lr[:, :, :5])
    assert torch.equal(frames, lr[:, :, :5])
    assert torch.equal(decoder(latents[:, :, 2:].bfloat16(), lr[:, :, 5:], state)[0], lr[:, :, 5:])
    with pytest.raises(ValueError, match=r"latents are torch.float32 and LR frames torch.bfloat16"):
        decoder(latents, lr.bfloat16())
    with pytest.raises(ValueError, match=r"latents are torch.bfloat16 and LR frames torch.float32"):
        _decoder().bfloat16()(latents.bfloat16(), lr)


def test_a_residual_decoder_trained_without_latents_is_not_disturbed_by_them_and_learns_to_use_them():
    decoder, (latents, lr) = _decoder(residual=True), _clip(2)
    torch.nn.init.normal_(decoder.decoder["26"].weight, std=0.1)
    frames, _ = decoder(latents, lr)
    assert torch.equal(frames, decoder(torch.zeros_like(latents), lr)[0])
    (frames - lr).square().mean().backward()
    assert decoder.decoder["latents"].weight.grad.abs().max() > 0


@pytest.mark.parametrize("learning", [True, False])
def test_a_settled_stream_begins_as_one_that_stood_still(learning):
    latents, lr = _clip(3)
    plain, settled = _decoder(), TinyConditionalDecoder(channels=CHANNELS, settling=2)
    settled.load_state_dict(plain.state_dict())
    still = torch.cat([latents[:, :, :1]] * 2 + [latents], 2), torch.cat([lr[:, :, :1]] * 8 + [lr], 2)
    with torch.set_grad_enabled(learning):
        expected = plain(*still)[0][:, :, 8:]
        torch.testing.assert_close(settled(latents, lr)[0], expected, rtol=0, atol=1e-6)
    with torch.inference_mode():
        assert torch.equal(_run(settled, latents, lr, (1, 2))[0], settled(latents, lr)[0])
    with pytest.raises(ValueError, match="-1"):
        TinyConditionalDecoder(settling=-1)


def test_an_untrained_residual_decoder_can_leave_the_lr_frames():
    decoder, (latents, lr) = _decoder(residual=True), _clip(2)
    decoder(latents, lr)[0].square().mean().backward()
    assert decoder.decoder["26"].weight.grad.abs().sum() > 0


@torch.inference_mode()
def test_bf16_stays_close_to_fp32():
    latents, lr = _clip(2)
    exact, _ = _decoder()(latents, lr)
    rounded, _ = _decoder().bfloat16()(latents.bfloat16(), lr.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.05)


@torch.inference_mode()
def test_wrong_input_is_refused_by_name():
    decoder, (latents, lr) = _decoder(), _clip(2)
    with pytest.raises(ValueError, match=r"first call of a stream takes 4n - 3 LR frames"):
        decoder(latents, torch.cat([lr, lr[:, :, :3]], dim=2))
    with pytest.raises(ValueError, match=r"LR frames of shape \(1, 3, 5, 16, 24\), got \(1, 3, 5, 16, 16\)"):
        decoder(latents, lr[..., :16])
    with pytest.raises(ValueError, match=r"latents must be \[B, 16, T >= 1, H/8, W/8\], got \(1, 4, 2, 2, 3\)"):
        decoder(latents[:, :4], lr)
    with pytest.raises(ValueError, match=r"torch.float32 and LR frames torch.bfloat16"):
        decoder(latents, lr.bfloat16())
    with pytest.raises(ValueError, match="latents_per_pass must be at least 1, got 0"):
        _decoder(latents_per_pass=0)
    _, state = decoder(latents, lr)
    with pytest.raises(ValueError, match="later calls take 4n LR frames"):
        decoder(latents, lr, state)
    other = _clip(2, height=3)
    with pytest.raises(ValueError, match="start a new stream with state=None"):
        decoder(other[0], torch.zeros(1, 3, 8, 24, 24), state)
    assert not state.consumed


@pytest.mark.parametrize("residual", [False, True])
def test_training_gives_the_frames_of_a_stream_and_their_gradient(residual):
    decoder, (latents, lr) = _decoder(residual=residual).double(), _clip(3, batch=2)
    torch.nn.init.normal_(decoder.decoder["26"].weight)
    latents, lr, names = latents.double(), lr.double(), [name for name, _ in decoder.named_parameters()]
    with torch.no_grad():
        expected, _ = _run(decoder, latents, lr, (1, 2))
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gradients = []
    for lengths in ((3,), (1, 2)):  # all frames together, and two calls joined by a state
        frames, _ = _run(decoder, latents, lr, lengths)
        torch.testing.assert_close(frames, expected, rtol=0, atol=1e-10)
        gradients.append(torch.autograd.grad((frames * weights).sum(), list(decoder.parameters())))
    for name, whole, parts in zip(names, *gradients, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-8, atol=1e-8, msg=name)


def test_gradients_through_a_state_and_the_residual_are_those_of_finite_differences():
    decoder = _decoder(channels=(2, 2, 2, 2), residual=True).double()
    torch.nn.init.normal_(decoder.decoder["26"].weight)
    latents, lr = (x.double().requires_grad_() for x in _clip(2, height=1, width=1))

    def run(z, x):
        first, state = decoder(z[:, :, :1], x[:, :, :1])
        second, _ = decoder(z[:, :, 1:], x[:, :, 1:], state)
        return torch.cat((first, second), 2)[..., ::3, ::3]

    assert torch.autograd.gradcheck(run, (latents, lr), atol=1e-6, fast_mode=True)


def test_a_frozen_decoder_goes_frame_by_frame_even_where_gradients_are_enabled():
    decoder, (latents, lr) = _decoder().requires_grad_(False), _clip(3)
    assert decoder(latents, lr)[0].grad_fn is None
    with torch.inference_mode():
        expected, _ = decoder(latents, lr)
    assert torch.equal(decoder(latents, lr)[0], expected)


@pytest.mark.parametrize("residual", [False, True])
def test_autocast_trains_close_to_fp32(residual):
    decoder, (latents, lr) = _decoder(residual=residual), _clip(2, batch=2)
    exact = decoder(latents, lr)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = decoder(latents, lr)[0]
    assert mixed.dtype == (torch.float32 if residual else torch.bfloat16)
    torch.testing.assert_close(mixed.float(), exact, rtol=0, atol=0.05)
    mixed.float().square().mean().backward()
    assert decoder.decoder["26"].weight.grad.dtype == torch.float32
