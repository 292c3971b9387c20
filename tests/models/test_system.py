from functools import partial

import pytest
import torch

from flashvsr.attention import LocalSparseAttention
from flashvsr.decoders import TinyConditionalDecoder, TinyDecoder, adain_color
from flashvsr.decoders.color import ColorMatch
from flashvsr.models.dit import VideoDiT
from flashvsr.models.lr_projection import LRProjection
from flashvsr.models.system import FlashVSR
from flashvsr.streaming import resize_bicubic


def _system(**arguments) -> FlashVSR:
    """All three networks, tiny, with random weights everywhere so that nothing is a plain copy."""
    torch.manual_seed(0)
    dim = 32
    attention = partial(LocalSparseAttention, window_hw=(3, 3), sparse_ratio=0.05)
    system = FlashVSR(
        LRProjection(hidden=(8, 12), dim=dim),
        VideoDiT(dim, 2, 2, 64, text_dim=None, attention=attention),
        TinyConditionalDecoder(channels=(16, 8, 8, 8)),
        **arguments,
    )
    return system.requires_grad_(False)


def _video(frames: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(frames, 3, 4, 6, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) * 255).byte()


def _stream(system: FlashVSR, video: torch.Tensor, piece: int, **arguments) -> torch.Tensor:
    stream = system.stream(height=video.shape[2], width=video.shape[3], **arguments)
    return torch.cat([*(stream.push(part) for part in video.split(piece)), stream.finish()])


def test_pieces_of_any_size_give_the_same_frames_bit_for_bit():
    system, video = _system(), _video(30, 32, 64)
    expected = system.upscale(video)
    assert expected.shape == (30, 3, 128, 256)
    for piece in (1, 3, 7, 8, 50):
        assert torch.equal(_stream(system, video, piece), expected), piece


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 17, 33), (9, 100, 60), (22, 20, 40)])
def test_n_frames_in_are_n_frames_out_at_four_times_the_size(frames, height, width):
    out = _system().upscale(_video(frames, height, width))
    assert out.shape == (frames, 3, 4 * height, 4 * width)
    assert out.dtype == torch.uint8


def test_a_residual_system_in_bf16_keeps_more_than_eight_bits():
    plain, residual = _system().bfloat16(), _system()
    residual.decoder = TinyConditionalDecoder(channels=(16, 8, 8, 8), residual=True)
    residual.bfloat16()
    video = torch.linspace(0.5, 0.51, 33 * 3 * 32 * 32).view(33, 3, 32, 32)  # 2.5 levels of 8 bits
    out = _stream(residual, video, 8)
    torch.testing.assert_close(out, resize_bicubic(video, (128, 128)), rtol=0, atol=1e-6)  # it adds nothing yet
    assert (plain.pixel_dtype, residual.pixel_dtype) == (torch.bfloat16, torch.float32)


def test_other_scales_give_the_exact_rounded_size():
    assert _system().upscale(_video(3, 33, 47), scale=2.5).shape == (3, 3, round(82.5), round(117.5))


def test_saved_and_loaded_streams_go_on_as_if_nothing_had_happened(tmp_path):
    system, video = _system(), _video(40, 32, 32)
    expected = _stream(system, video, 8)
    stream = system.stream(height=32, width=32)
    head = stream.push(video[:30])
    torch.save(stream.state_dict(), tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    again = system.stream(height=32, width=32, state=saved)
    tail = torch.cat([again.push(video[30:]), again.finish()])
    assert torch.equal(torch.cat([head, tail]), expected)


def test_a_cloned_state_branches_and_a_used_one_is_refused():
    system = _system()
    lr, noise = torch.randn(1, 3, 33, 128, 128), torch.randn(1, 16, 8, 16, 16)
    _, state = system.step(lr[:, :, :25], noise[:, :, :6])
    clone = state.clone()
    frames, _ = system.step(lr[:, :, 25:], noise[:, :, 6:], state)
    assert torch.equal(system.step(lr[:, :, 25:], noise[:, :, 6:], clone)[0], frames)
    with pytest.raises(RuntimeError, match="consumed"):
        system.step(lr[:, :, 25:], noise[:, :, 6:], state)


def test_samples_of_a_batch_are_processed_as_each_alone():
    system = _system()
    lr, noise = torch.rand(2, 3, 33, 128, 128) * 2 - 1, torch.randn(2, 16, 8, 16, 16)

    def run(rows: slice) -> torch.Tensor:
        first, state = system.step(lr[rows, :, :25], noise[rows, :, :6])
        return torch.cat((first, system.step(lr[rows, :, 25:], noise[rows, :, 6:], state)[0]), 2)

    alone = torch.cat((run(slice(0, 1)), run(slice(1, 2))))
    torch.testing.assert_close(run(slice(0, 2)), alone, rtol=0, atol=1e-4)  # the colour gain enlarges rounding


def test_chunks_run_without_a_look_at_any_value():
    # on the meta device there are none: what would make the host wait for a GPU raises here
    system = _system(color="wavelet").to("meta")
    for block in system.dit.blocks:
        block.self_attn.impl = "dense"  # gather does look: at how many blocks each row keeps
    lr, noise = torch.empty(1, 3, 33, 128, 256, device="meta"), torch.empty(1, 16, 8, 16, 32, device="meta")
    _, state = system.step(lr[:, :, :25], noise[:, :, :6])
    frames, _ = system.step(lr[:, :, 25:], noise[:, :, 6:], state)
    assert frames.shape == (1, 3, 8, 128, 256)


def test_what_does_not_fit_is_refused_before_any_state_is_consumed():
    system = _system()
    lr, noise = torch.rand(1, 3, 25, 128, 256), torch.randn(1, 16, 6, 16, 32)
    with pytest.raises(ValueError, match=r"at the start of a stream lr is \[B, 3, 25, H, W\]"):
        system.step(lr[:, :, :24], noise)
    with pytest.raises(ValueError, match=r"noise \[B, 16, 6, H/8, W/8\].* and \[1, 16, 4, 16, 32\]"):
        system.step(lr, noise[:, :, :4])
    _, state = system.step(lr, noise)
    with pytest.raises(ValueError, match="start a new stream"):
        system.step(lr[:, :, :8, :, :128], noise[:, :, :2, :, :16], state)
    with pytest.raises(ValueError, match="in a running stream"):
        system.step(lr, noise, state)
    assert system.step(lr[:, :, :8], noise[:, :, :2], state)[0].shape == (1, 3, 8, 128, 256)
    for use in (state.clone, state.state_dict):
        with pytest.raises(RuntimeError, match="consumed"):
            use()


@pytest.mark.parametrize("content", [None, (100, 90)])
def test_gradients_pass_through_a_step_and_its_colours(content):
    system = _system().requires_grad_(True)
    frames, state = system.step(torch.rand(1, 3, 25, 128, 128), torch.randn(1, 16, 6, 16, 16), content=content)
    frames.square().mean().backward()
    assert all(parameter.grad is not None for parameter in system.decoder.parameters())
    assert not state.dit.cache.keys.requires_grad


def test_a_stream_begun_in_inference_mode_goes_on_outside_of_it():
    system = _system()
    lr, noise = torch.rand(1, 3, 33, 128, 128), torch.randn(1, 16, 8, 16, 16)
    with torch.inference_mode():
        _, state = system.step(lr[:, :, :25], noise[:, :, :6])
        expected, _ = system.step(lr[:, :, 25:], noise[:, :, 6:], state.clone())
    assert torch.equal(system.step(lr[:, :, 25:], noise[:, :, 6:], state)[0], expected)


def test_two_interleaved_streams_do_not_touch_each_other():
    system, one, two = _system(), _video(33, 32, 32), _video(33, 32, 32).flip(0)
    expected = [_stream(system, video, 50) for video in (one, two)]
    streams = [system.stream(height=32, width=32) for _ in range(2)]
    parts: list[list[torch.Tensor]] = [[], []]
    for start in range(0, 33, 11):
        for index, video in enumerate((one, two)):
            parts[index].append(streams[index].push(video[start : start + 11]))
    for index in range(2):
        assert torch.equal(torch.cat([*parts[index], streams[index].finish()]), expected[index])


def test_the_noise_decides_the_output_and_the_seed_decides_the_noise():
    system, video = _system(), _video(21, 32, 32)
    assert torch.equal(system.upscale(video, seed=1), system.upscale(video, seed=1))
    assert not torch.equal(system.upscale(video, seed=1), system.upscale(video, seed=2))
    noise = torch.randn(1, 16, 6, 16, 16)
    assert torch.equal(system.upscale(video, noise=noise), system.upscale(video, noise=noise, seed=5))


def test_colours_are_matched_over_content_and_not_over_padding():
    frames, lr = torch.randn(1, 3, 2, 32, 48), torch.randn(1, 3, 2, 32, 48)
    out = ColorMatch("adain")(frames.clone(), lr, content=(20, 30))
    assert torch.equal(out[..., :20, :30], adain_color(frames[..., :20, :30], lr[..., :20, :30]))
    assert torch.equal(out[..., 20:, :], frames[..., 20:, :])
    assert not torch.equal(ColorMatch("adain")(frames.clone(), lr)[..., :20, :30], out[..., :20, :30])


def test_a_prompt_or_colour_that_does_not_fit_is_refused():
    system = _system()
    parts = (system.projection, system.dit, system.decoder)
    with pytest.raises(ValueError, match="takes no prompt"):
        FlashVSR(*parts, prompt=torch.zeros(1, 4, 8))
    with pytest.raises(ValueError, match="'sepia'"):
        FlashVSR(*parts, color="sepia")


@pytest.fixture(scope="module")
def bright():
    """A system whose latents change what is seen, and a clip for it."""
    system = _system()
    torch.nn.init.normal_(system.dit.head.head.weight, std=0.5)
    return system, _video(30, 32, 32)


def _latents(system: FlashVSR, video: torch.Tensor) -> torch.Tensor:
    """What the decoder gets while a clip is upscaled."""
    seen = []
    handle = system.decoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    with handle:
        system.upscale(video)
    return torch.cat(seen, 2)


def test_a_detail_of_1_is_the_plain_system_bit_for_bit(bright):
    system, video = bright
    assert torch.equal(system.with_detail(1).upscale(video), system.upscale(video))


def test_latents_grow_linearly_with_the_detail_from_zero(bright):
    system, video = bright
    whole = _latents(system, video)
    assert whole.std() > 0.5
    for detail in (0.0, 0.25, 0.7):
        assert torch.equal(_latents(system.with_detail(detail), video), detail * whole), detail


def test_a_detail_of_0_is_the_decoder_on_zeros_and_runs_nothing_else(bright):
    system = bright[0]
    frames = torch.randint(0, 256, (33, 3, 32, 32), dtype=torch.uint8)

    def refuse(*_):
        raise AssertionError("this part is not needed")

    zeroed = system.decoder.register_forward_pre_hook(lambda module, given: (torch.zeros_like(given[0]), *given[1:]))
    with zeroed:
        expected = _stream(system, frames, 8)
    handles = [part.register_forward_pre_hook(refuse) for part in (system.dit, system.projection)]
    got = _stream(system.with_detail(0), frames, 8)
    for handle in handles:
        handle.remove()
    assert torch.equal(got, expected)
    assert not torch.equal(system.upscale(frames), expected)


@pytest.mark.parametrize("detail", [0.0, 0.6])
def test_with_any_detail_pieces_and_saved_streams_equal_one_pass(bright, detail):
    system, video = bright[0].with_detail(detail), bright[1]
    expected = system.upscale(video)
    assert torch.equal(_stream(system, video, 7), expected)
    stream = system.stream(height=32, width=32)
    head = stream.push(video[:26])
    again = system.stream(height=32, width=32, state=stream.state_dict())
    assert torch.equal(torch.cat([head, again.push(video[26:]), again.finish()]), expected)


def test_views_with_other_details_share_weights_and_leave_the_system_alone(bright):
    system, _ = bright
    half = system.with_detail(0.5)
    assert half.paths()["detail"] == "latents times 0.5" and "detail" not in system.paths()
    assert "attention" not in system.with_detail(0).paths()
    assert (half.detail, system.detail, half.with_detail(1).detail) == (0.5, 1, 1)
    assert next(half.parameters()) is next(system.parameters())


def test_a_stream_without_a_past_of_the_transformer_cannot_gain_detail(bright):
    system, video = bright
    stream = system.with_detail(0).stream(height=32, width=32)
    stream.push(video[:25])
    again = system.stream(height=32, width=32, state=stream.state_dict())
    with pytest.raises(ValueError, match="the state is of a stream with a detail of 0"):
        again.push(video[25:30].repeat(2, 1, 1, 1))


@pytest.mark.parametrize("detail", [-0.1, 1.01, float("nan")])
def test_a_detail_out_of_range_is_refused(bright, detail):
    with pytest.raises(ValueError, match="detail goes from 0, the decoder alone, to 1, the whole model; got"):
        bright[0].with_detail(detail)


def test_a_decoder_that_sees_only_latents_needs_them_whole():
    system = _system()
    system.decoder = TinyDecoder(channels=(16, 8, 8, 8))
    with pytest.raises(ValueError, match="a TinyDecoder sees only the latents and needs them whole"):
        system.with_detail(0.5)
