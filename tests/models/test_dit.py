from functools import partial
from typing import Any

import pytest
import torch

from flashvsr.attention import FullAttention, LocalSparseAttention
from flashvsr.models.dit import VideoDiT
from flashvsr.models.dit_blocks import timestep_embedding
from flashvsr.models.dit_state import DiTState

ON_GPU = ("triton", "gather", "dense")
T1000 = torch.tensor([1000.0])


def _golden_dit(case: dict, run: dict, impl: str) -> VideoDiT:
    config = case["config"]
    pixels = run["h"] * 16 * run["w"] * 16
    attention = partial(
        LocalSparseAttention,
        window_hw=(run["local_range"], run["local_range"]),
        # the runs give the factor after scaling by the frame size; the last factor undoes the rounding of going back
        sparse_ratio=run["topk_ratio"] * pixels / (768 * 1280) * (1 + 1e-12),
        history=int(run["kv_ratio"]),
        impl=impl,
    )
    sizes = (config["dim"], config["num_layers"], config["num_heads"], config["ffn_dim"])
    dit = VideoDiT(*sizes, text_dim=config["text_dim"], attention=attention)
    dit.load_state_dict({name: tensor.float() for name, tensor in case["state_dict"].items()})
    return dit.requires_grad_(False)


def _to(case: Any, device: str) -> Any:
    if isinstance(case, torch.Tensor):
        return case.to(device)
    if isinstance(case, dict):
        return {key: _to(value, device) for key, value in case.items()}
    return [_to(value, device) for value in case] if isinstance(case, list) else case


def _record_masks(dit: VideoDiT) -> list[torch.Tensor]:
    masks: list[torch.Tensor] = []
    for block in dit.blocks:
        block.self_attn.selection.register_forward_hook(lambda module, args, out: masks.append(out))
    return masks


def _in_stream_order(mask: torch.Tensor, positions: list[int], per_slot: int) -> torch.Tensor:
    """Put the columns of a mask over (ring, chunk) in the order of the stream, as the released cache has them."""
    past = mask[..., : len(positions) * per_slot].split(per_slot, -1) if positions else ()
    ordered = [part for _, part in sorted(zip(positions, past, strict=True), key=lambda pair: pair[0])]
    return torch.cat([*ordered, mask[..., len(positions) * per_slot :]], -1)


@pytest.mark.parametrize(
    ("impl", "device"),
    [("reference", "cpu"), ("gather", "cpu"), *(pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in ON_GPU)],
)
def test_streaming_equals_the_released_transformer(golden, impl, device):
    case = _to(golden("dit.pt"), device)
    for run in case["runs"]:
        dit, inputs = _golden_dit(case, run, impl).to(device), case["inputs"][run["inputs"]]
        masks = _record_masks(dit)
        per_slot, state = run["h"] * run["w"] // 64, None
        for index, chunk in enumerate(run["chunks"]):
            frames = slice(0, 6) if index == 0 else slice(4 + 2 * index, 6 + 2 * index)
            positions = state.cache.positions if state else []
            velocity, state = dit(
                inputs["noise"][:, :, frames].float(),
                T1000.to(device),
                lr_tokens=inputs["lq_latents"][index][0].float(),
                prompt=case["context"].float() if index == 0 else None,
                state=state,
            )
            for ours, theirs in zip(masks, chunk["block_masks"], strict=True):
                assert torch.equal(_in_stream_order(ours, positions, per_slot), theirs.bool())
            torch.testing.assert_close(velocity, chunk["noise_pred"], rtol=0, atol=1e-5)
            for layer, theirs in enumerate(chunk["cache_k_block_mean"]):
                means = state.cache.read(layer)[2].transpose(1, 2).flatten(2)[0]
                means = _in_stream_order(means.T, state.cache.positions, per_slot).T
                torch.testing.assert_close(means, theirs, rtol=0, atol=1e-5)
            masks.clear()


@pytest.mark.parametrize(("impl", "most"), [("plain_int8", 0.001), ("plain_8bit", 0.0015)])
def test_attention_in_8_bits_changes_the_released_velocity_by_about_a_thousandth(golden, impl, most):
    case = golden("dit.pt")
    for run in case["runs"]:
        dit, inputs, chunk = _golden_dit(case, run, impl), case["inputs"][run["inputs"]], run["chunks"][0]
        noise, tokens = inputs["noise"][:, :, :6].float(), inputs["lq_latents"][0][0].float()
        velocity, _ = dit(noise, T1000, lr_tokens=tokens, prompt=case["context"].float())
        assert 1e-4 < (velocity - chunk["noise_pred"]).norm() / chunk["noise_pred"].norm() < most


def test_the_embeddings_equal_the_released_ones(golden):
    case = golden("dit.pt")
    dit = _golden_dit(case, case["runs"][0], "reference")
    embedding, modulation = dit._time(case["timestep"], torch.float32)
    torch.testing.assert_close(embedding, case["t"], rtol=0, atol=1e-5)
    torch.testing.assert_close(modulation, case["t_mod"], rtol=0, atol=1e-5)
    for (key, value), k, v in zip(
        dit._context(case["context"].float()), case["cross_cache_k"], case["cross_cache_v"], strict=True
    ):
        torch.testing.assert_close(key, k, rtol=0, atol=1e-5)
        torch.testing.assert_close(value, v, rtol=0, atol=1e-5)


def _small(**arguments) -> VideoDiT:
    torch.manual_seed(0)
    attention = partial(LocalSparseAttention, sparse_ratio=0.03, window_hw=(3, 3))
    dit = VideoDiT(32, 2, 2, 64, channels=4, **{"text_dim": None, "attention": attention, **arguments})
    for name, parameter in dit.named_parameters():
        if "norm" in name or "bias" in name:  # at their initial values these hide mistakes
            torch.nn.init.normal_(parameter, std=0.5)
    return dit.requires_grad_(False)


def _latents(frames: int) -> torch.Tensor:
    return torch.randn(1, 4, frames, 32, 48, generator=torch.Generator().manual_seed(1))


def _run(dit: VideoDiT, latents: torch.Tensor, state: DiTState | None = None) -> tuple[torch.Tensor, DiTState]:
    """The chunks of a stream, one after the other."""
    first = 6 if state is None else 2
    velocities = []
    for chunk in (latents[:, :, :first], *latents[:, :, first:].split(2, 2)):
        if chunk.shape[2]:
            velocity, state = dit(chunk, T1000, state=state)
            velocities.append(velocity)
    return torch.cat(velocities, 2), state


def test_the_whole_sequence_of_training_equals_the_chunked_stream():
    dit, latents = _small(), _latents(14)
    whole, state = dit(latents, T1000, streaming=False)
    assert state is None
    torch.testing.assert_close(_run(dit, latents)[0], whole, rtol=0, atol=1e-5)


def test_whole_and_chunked_agree_in_bf16_under_the_same_masks():
    dit, latents = _small().bfloat16(), _latents(10).bfloat16()
    recorded = _record_masks(dit)
    whole, _ = dit(latents, T1000, streaming=False)
    recorded = list(recorded)
    per_slot, where = 6, {"first": 0, "count": 3, "positions": []}

    def replay(layer: int):
        def hook(module, args, out):
            rows = recorded[layer][:, :, where["first"] * per_slot : (where["first"] + where["count"]) * per_slot]
            slots = [*where["positions"], *range(where["first"], where["first"] + where["count"])]
            return torch.cat([rows[..., slot * per_slot : (slot + 1) * per_slot] for slot in slots], -1)

        return hook

    for layer, block in enumerate(dit.blocks):
        block.self_attn.selection.register_forward_hook(replay(layer))
    state, chunks = None, []
    for first, count in ((0, 3), (3, 1), (4, 1)):
        where.update(first=first, count=count, positions=state.cache.positions if state else [])
        velocity, state = dit(latents[:, :, 2 * first : 2 * (first + count)], T1000, state=state)
        chunks.append(velocity)
    error = (torch.cat(chunks, 2) - whole).float().norm() / whole.float().norm()
    assert error < 4 * torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("attention", [LocalSparseAttention, partial(FullAttention, impl="sdpa")])
def test_training_under_autocast_computes_in_bf16_and_keeps_fp32_gradients(attention):
    dit, latents = _small(text_dim=8, attention=attention).requires_grad_(True), _latents(6)
    prompt = torch.randn(1, 3, 8)
    exact, _ = dit(latents, T1000, prompt=prompt, streaming=False)
    with torch.autocast("cpu", torch.bfloat16):
        velocity, _ = dit(latents, T1000, prompt=prompt, streaming=False)
    assert velocity.dtype == torch.bfloat16
    assert (velocity.float() - exact).norm() < 0.05 * exact.norm()
    velocity.float().square().mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in dit.parameters())


def test_saved_states_and_clones_go_on_as_if_nothing_had_happened():
    dit, latents = _small(), _latents(12)
    expected, _ = _run(dit, latents)
    _, state = _run(dit, latents[:, :, :8])
    clone, saved = state.clone(), state.state_dict()
    for branch in (state, clone, DiTState.from_state_dict(saved)):
        assert torch.equal(_run(dit, latents[:, :, 8:], branch)[0], expected[:, :, 8:])


@torch.inference_mode()
def test_layers_in_host_memory_change_no_velocity_and_their_saved_states_fit_any_room():
    torch.manual_seed(0)
    attention = partial(LocalSparseAttention, sparse_ratio=0.03, window_hw=(3, 3))
    dit, latents = VideoDiT(32, 5, 2, 64, channels=4, text_dim=None, attention=attention), _latents(14)
    expected, _ = _run(dit, latents)
    layer_bytes = 2 * 3 * 6 * 128 * 32 * 4  # keys and values of 3 slots of 6 blocks
    dit.cache_gib = 3 * layer_bytes / 2**30
    start, state = _run(dit, latents[:, :, :10])
    assert len(state.cache.keys) == 1
    assert torch.equal(start, expected[:, :, :10])
    resumed = DiTState.from_state_dict(state.state_dict())
    assert len(resumed.cache.keys) == 5
    for branch in (state.clone(), state, resumed):
        assert torch.equal(_run(dit, latents[:, :, 10:], branch)[0], expected[:, :, 10:])


@torch.inference_mode()
def test_the_next_stream_takes_the_host_memory_of_the_one_before_and_nothing_of_what_it_holds():
    attention = partial(LocalSparseAttention, sparse_ratio=0.03, window_hw=(3, 3))
    dit, latents = VideoDiT(32, 5, 2, 64, channels=4, text_dim=None, attention=attention), _latents(10)
    expected, _ = _run(dit, latents)
    dit.cache_gib = 2 * (2 * 3 * 6 * 128 * 32 * 4) / 2**30
    first, state = _run(dit, latents)
    branch = state.clone()
    place = state.cache._host.pairs.data_ptr()
    assert branch.cache._host.pairs.data_ptr() != place
    del state
    second, state = _run(dit, latents)
    assert state.cache._host.pairs.data_ptr() == place
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)


def test_two_interleaved_streams_do_not_touch_each_other():
    dit, one, two = _small(), _latents(10), _latents(10).flip(2)
    expected = [_run(dit, latents)[0] for latents in (one, two)]
    states = [dit(latents[:, :, :6], T1000)[1] for latents in (one, two)]
    for start in (6, 8):
        for index, latents in enumerate((one, two)):
            velocity, states[index] = dit(latents[:, :, start : start + 2], T1000, state=states[index])
            assert torch.equal(velocity, expected[index][:, :, start : start + 2])


def test_a_state_is_consumed_by_its_use():
    dit = _small()
    _, state = dit(_latents(6), T1000)
    dit(_latents(2), T1000, state=state)
    for use in (lambda: dit(_latents(2), T1000, state=state), state.clone, state.state_dict):
        with pytest.raises(RuntimeError, match="consumed"):
            use()


def test_packed_samples_equal_each_sample_alone_and_an_image_is_legal():
    dit = _small(attention=partial(FullAttention, impl="sdpa"))
    samples = [torch.randn(4, 1, 6, 10), torch.randn(4, 5, 4, 8)]
    tokens = [torch.randn(15, 32), None]
    timesteps = torch.tensor([900.0, 200.0])
    for index, velocity in enumerate(dit.forward_packed(samples, timesteps, tokens)):
        lr_tokens = None if tokens[index] is None else tokens[index][None]
        alone, _ = dit(samples[index][None], timesteps[index : index + 1], lr_tokens=lr_tokens, streaming=False)
        torch.testing.assert_close(velocity, alone[0], rtol=0, atol=1e-5)


def test_gradients_of_a_whole_sequence_reach_every_parameter():
    dit = _small(text_dim=8).requires_grad_(True)
    velocity, _ = dit(_latents(8), T1000, prompt=torch.randn(1, 3, 8), streaming=False)
    velocity.square().sum().backward()
    dead = [name for name, p in dit.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not [name for name in dead if not name.endswith("attn.k.bias")]


def test_the_timestep_embedding_starts_with_the_cosines():
    out = timestep_embedding(torch.tensor([0.0, 1000.0]), 8)
    assert out[0].tolist() == [1.0] * 4 + [0.0] * 4
    torch.testing.assert_close(out[1, 0], torch.tensor(1000.0, dtype=torch.float64).cos().float())


def test_bad_input_is_refused_by_value():
    dit = _small()
    with pytest.raises(ValueError, match="at most 6 latent frames, got 8"):
        dit(_latents(8), T1000)
    _, state = dit(_latents(6), T1000)
    with pytest.raises(ValueError, match="at most 2 latent frames, got 4"):
        dit(_latents(4), T1000, state=state)
    with pytest.raises(ValueError, match=r"of 1 samples with 768 tokens per slot, .* start a new stream"):
        dit(_latents(2)[..., :16, :], T1000, state=state)
    with pytest.raises(ValueError, match="state is of 1 samples"):
        dit(_latents(2).expand(2, -1, -1, -1, -1), T1000, state=state)
    assert not state.consumed
    with pytest.raises(ValueError, match="5 latent frames cannot be cut"):
        dit(_latents(5), T1000)
    with pytest.raises(ValueError, match="takes none"):
        dit(_latents(6), T1000, prompt=torch.randn(1, 3, 8))
    with pytest.raises(ValueError, match="pass its embedding"):
        _small(text_dim=8)(_latents(6), T1000)
    with pytest.raises(ValueError, match=r"lr_tokens are \[1, 2304, 32\]"):
        dit(_latents(6), T1000, lr_tokens=torch.zeros(1, 5, 32))
    with pytest.raises(ValueError, match="does not stream"):
        _small(attention=FullAttention)(_latents(6), T1000)
    with pytest.raises(ValueError, match="full attention"):
        dit.forward_packed([], T1000[:0], [])
    kinds = iter([LocalSparseAttention, FullAttention])
    with pytest.raises(ValueError, match="same order"):
        _small(attention=lambda dim, heads: next(kinds)(dim, heads))
