import inspect

import pytest
import torch

from flashvsr.decoders import TinyConditionalDecoder, TinyDecoder
from flashvsr.models import DecoderSystem, FlashVSR, load
from flashvsr.models.folder import Component, save_model_folder
from flashvsr.streaming import resize_bicubic

CHANNELS = {"channels": [8, 8, 8, 8]}


def _decoder(**options) -> TinyConditionalDecoder:
    torch.manual_seed(0)
    decoder = TinyConditionalDecoder(channels=(16, 8, 8, 8), residual=True, **options)
    torch.nn.init.normal_(decoder.decoder["26"].weight, std=0.1)
    return decoder


def _system(**options) -> DecoderSystem:
    return DecoderSystem(_decoder(settling=2), **options).requires_grad_(False).eval()


def _video(frames: int, height: int = 20, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


def _folder(path, decoder, class_path, **init_args) -> str:
    save_model_folder(path, {"decoder": Component(class_path, init_args, decoder)})
    return str(path)


def _conditional(path, decoder) -> str:
    return _folder(path, decoder, "flashvsr.decoders.TinyConditionalDecoder", channels=[16, 8, 8, 8], residual=True)


def test_pieces_of_any_size_give_the_same_frames_bit_for_bit():
    system, video = _system(), _video(14)
    expected = system.upscale(video)
    assert expected.shape == (14, 3, 80, 96)
    for piece in (1, 3, 14):
        stream = system.stream(height=20, width=24)
        pieces = [*(stream.push(part) for part in video.split(piece)), stream.finish()]
        assert torch.equal(torch.cat(pieces), expected), piece


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 17, 33), (9, 18, 16)])
def test_n_frames_in_are_n_frames_out_at_four_times_the_size(frames, height, width):
    assert _system().upscale(_video(frames, height, width)).shape == (frames, 3, 4 * height, 4 * width)


def test_the_first_frame_comes_at_once_and_four_more_with_the_last_of_them():
    stream = _system().stream(height=20, width=24)
    assert [len(stream.push(frame[None])) for frame in _video(9)] == [1, 0, 0, 0, 4, 0, 0, 0, 4]


def test_what_comes_later_changes_nothing():
    video = _video(9)
    changed = torch.cat([video[:5], _video(4) // 2])
    assert torch.equal(_system().upscale(video)[:5], _system().upscale(changed)[:5])


def test_it_is_the_decoder_with_latents_of_zero():
    system, video = _system(), _video(5)
    lr = resize_bicubic(video, (80, 96)).float().div(127.5).sub(1).transpose(0, 1)[None]
    frames, _ = system.decoder(torch.zeros(1, 16, 2, 10, 12), lr, None)
    meant = frames[0].transpose(0, 1).add(1).mul(127.5)
    assert (system.upscale(video).float() - meant.clamp(0, 255)).abs().max() < 1.5


def test_a_saved_stream_goes_on_where_it_was():
    system, video = _system(), _video(13)
    whole = system.upscale(video)
    stream = system.stream(height=20, width=24)
    begun = stream.push(video[:6])
    saved = stream.state_dict()
    stream.push(video[6:])  # the saved state is not touched
    resumed = system.stream(height=20, width=24, state=saved)
    assert torch.equal(torch.cat([begun, resumed.push(video[6:]), resumed.finish()]), whole)


def test_a_state_is_taken_once():
    system, lr = _system(), torch.zeros(1, 3, 4, 32, 32)
    _, state = system.step(lr[:, :, :1])
    system.step(lr, state=state)
    with pytest.raises(RuntimeError, match="consumed"):
        system.step(lr, state=state)


def test_colours_are_matched_when_asked():
    video = _video(1)
    plain, matched = (_system(color=color).upscale(video) for color in ("none", "adain"))
    assert not torch.equal(plain, matched)


def test_a_folder_of_a_decoder_alone_streams(tmp_path):
    decoder = _decoder()
    system = load(_conditional(tmp_path / "model", decoder), device="cpu", dtype="fp32", color="none")
    assert isinstance(system, DecoderSystem)
    assert torch.equal(system.upscale(_video(6)), DecoderSystem(decoder).eval().upscale(_video(6)))


@pytest.mark.parametrize(
    "option",
    [{"impl": "gather"}, {"sparse_ratio": 2.0}, {"fp8": True}, {"cache_gib": 1.0}, {"detail": 0.6}, {"detail": 0.0}],
)
def test_what_is_for_a_transformer_is_refused(tmp_path, option):
    path = _conditional(tmp_path / "model", _decoder())
    with pytest.raises(ValueError, match=f"decoder alone, without a transformer: leave out {next(iter(option))}="):
        load(path, device="cpu", **option)


def test_a_loaded_decoder_has_no_detail_to_turn_down():
    system = _system()
    assert system.with_detail(1) is system
    with pytest.raises(ValueError, match=r"without a diffusion part whose detail could be 0\.5: leave it at 1"):
        system.with_detail(0.5)


def test_a_decoder_that_does_not_see_the_lr_frames_cannot_be_alone(tmp_path):
    path = _folder(tmp_path / "model", TinyDecoder(**CHANNELS), "flashvsr.decoders.TinyDecoder", **CHANNELS)
    with pytest.raises(ValueError, match="does not see the LR frames"):
        load(path, device="cpu")


def test_a_step_takes_the_arguments_that_flashvsr_takes():
    ours, whole = (inspect.signature(system.step).parameters for system in (DecoderSystem, FlashVSR))
    assert list(ours) == list(whole)
