"""What is alive at the peak of a chunk, counted in bytes of tensors as they come and go."""

import pytest
import torch

from flashvsr.decoders import TinyConditionalDecoder, TinyDecoderState
from flashvsr.models import VideoDiT, dit_blocks
from flashvsr.models.memory import LiveBytes


def _dit() -> VideoDiT:
    torch.manual_seed(0)
    return VideoDiT(64, 2, 2, 4096, channels=4, text_dim=None).requires_grad_(False)


def _first_chunk(dit: VideoDiT, grad: bool = False) -> tuple[torch.Tensor, int]:
    latents = torch.randn(1, 4, 6, 32, 48, generator=torch.Generator().manual_seed(1))
    with torch.set_grad_enabled(grad), LiveBytes() as live:
        velocity, _ = dit(latents, torch.tensor([1000.0]))
    return velocity, live.peak


def test_pieces_of_a_long_chunk_take_less_memory_and_give_the_same(monkeypatch):
    plain, plain_peak = _first_chunk(_dit(), grad=True)
    whole, whole_peak = _first_chunk(_dit())
    monkeypatch.setattr(dit_blocks, "PIECE_TOKENS", 256)
    pieces, pieces_peak = _first_chunk(_dit())
    hidden = 6 * 16 * 24 * 4096 * 4  # bytes inside a feed-forward network, of which the plain one holds two
    assert pieces_peak < whole_peak - 0.5 * hidden
    assert whole_peak < plain_peak - 0.5 * hidden
    for other in (plain, whole):
        torch.testing.assert_close(pieces, other, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_a_decoder_holds_its_past_once_and_its_frames_once():
    decoder = TinyConditionalDecoder(channels=(16, 16, 8, 8))
    latents, lr = torch.randn(1, 16, 8, 16, 16), torch.rand(1, 3, 32, 128, 128)
    _, state = decoder(latents, lr[:, :, 3:])
    with LiveBytes() as live:
        frames, _ = decoder(latents, lr, state)
    assert state.past is None
    assert live.peak < 1.75 * frames.nbytes  # features of a picture or two, and no second copy of the frames


def test_a_consumed_decoder_state_is_refused_before_anything_else():
    decoder = TinyConditionalDecoder(channels=(16, 16, 8, 8))
    latents = torch.randn(1, 16, 1, 16, 16)
    _, state = decoder(latents, torch.rand(1, 3, 1, 128, 128))
    decoder(latents, torch.rand(1, 3, 4, 128, 128), state)
    with pytest.raises(RuntimeError, match="was consumed"):
        decoder(latents, torch.rand(1, 3, 4, 128, 128), state)
    assert isinstance(state, TinyDecoderState)
