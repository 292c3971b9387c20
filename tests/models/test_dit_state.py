from functools import partial

import pytest
import torch

from flashvsr.attention import KVCache, LocalSparseAttention
from flashvsr.decoders import TinyConditionalDecoder
from flashvsr.models import FlashVSR, LRProjection, VideoDiT, dit_state


def _system(history: int = 3) -> FlashVSR:
    torch.manual_seed(0)
    attention = partial(LocalSparseAttention, history=history, sparse_ratio=0.5, window_hw=(3, 3))
    dit = VideoDiT(128, 2, 2, 256, text_dim=8, attention=attention)
    for parameter in dit.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    parts = LRProjection(hidden=(8, 12), dim=128), dit, TinyConditionalDecoder(channels=(16, 16, 16, 16))
    return FlashVSR(*parts, prompt=torch.randn(1, 5, 8)).requires_grad_(False)


@torch.inference_mode()
def test_why_a_chunk_is_not_recorded_is_said():
    dit, x = _system().dit, torch.zeros(1, 128, 128)
    assert dit_state.why_no_graphs(dit, x, KVCache(2, 3, 128, 2, 64)) == "they need a GPU"


def test_system_shows_the_frames_of_each_latent_as_it_is_decoded():
    system, video = _system(), torch.rand(33, 3, 32, 32)
    shown: list[torch.Tensor] = []
    plain, parts = (system.stream(height=32, width=32) for _ in range(2))
    frames = parts.push(video, on_frames=shown.append)
    assert [len(part) for part in shown] == [1, 4, 4, 4, 4, 4, 4, 4]
    assert torch.equal(frames, torch.cat(shown))
    torch.testing.assert_close(frames, plain.push(video), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("history", [1, 3])
def test_graphs_change_no_bit_of_a_stream_and_follow_a_copy(history, monkeypatch):
    system, video = _system(history).to("cuda", torch.bfloat16), torch.rand(25 + 8 * 12, 3, 64, 96)
    recorded = []
    record = dit_state.ChunkGraphs._record
    monkeypatch.setattr(dit_state.ChunkGraphs, "_record", lambda *arguments: recorded.append(1) or record(*arguments))
    with_graphs = system.upscale(video)
    assert len(recorded) == history
    half = system.stream(height=64, width=96)
    begun = half.push(video[:73])
    later = system.stream(height=64, width=96, state=half.state_dict())
    assert torch.equal(torch.cat([begun, later.push(video[73:]), later.finish()]), with_graphs)
    monkeypatch.setattr(dit_state, "MOST_TOKENS", 0)
    assert torch.equal(system.upscale(video), with_graphs)


@pytest.mark.gpu
@torch.inference_mode()
def test_what_cannot_be_recorded_runs_as_usual():
    system = _system().to("cuda", torch.bfloat16)
    dit, x = system.dit, torch.zeros(1, 256, 128, device="cuda", dtype=torch.bfloat16)
    cache = KVCache(2, 3, 128, 2, 64, device="cuda")
    assert dit_state.why_no_graphs(dit, x, cache) == "the stream has just begun"
    cache.advance(3)
    assert dit_state.why_no_graphs(dit, x, cache) is None
    assert "keep a GPU busy" in str(dit_state.why_no_graphs(dit, x.expand(dit_state.MOST_TOKENS, -1, -1), cache))
    handle = dit.blocks[1].self_attn.selection.register_forward_hook(lambda *_: None)
    assert dit_state.why_no_graphs(dit, x, cache) == "hooks watch the blocks"
    handle.remove()
    dit.blocks[0].self_attn.impl = "gather"
    assert "'gather'" in str(dit_state.why_no_graphs(dit, x, cache))
    dit.blocks[0].self_attn.impl = "auto"
    with torch.autocast("cuda"):
        assert "autocast" in str(dit_state.why_no_graphs(dit, x, cache))
