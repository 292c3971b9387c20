"""A stream within a limit of memory: what it takes is known before, frames stay the same, what cannot be is said."""

import importlib.util
import math
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import flashvsr
from flashvsr.attention import LocalSparseAttention
from flashvsr.cli import main
from flashvsr.decoders import TinyConditionalDecoder
from flashvsr.models import DecoderSystem, FlashVSR, LRProjection, VideoDiT, loading, memory_plan
from flashvsr.models.builders import lr_projection_1b, tiny_conditional_decoder_1b, video_dit_1b
from flashvsr.models.memory import (
    GIB,
    LiveBytes,
    MemoryNeeds,
    Moment,
    estimate_decoder_needs,
    estimate_needs,
    rounded_bytes,
    transformer_bytes,
)
from flashvsr.models.memory_plan import check_limit, keep_on_host, limit_allocator, plan_memory
from tests.small_folder import save_small_system

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "live_bytes.py"
BLOCKS = 5


def _system(**options) -> FlashVSR:
    torch.manual_seed(0)
    attention = partial(LocalSparseAttention, history=2, sparse_ratio=0.5, window_hw=(3, 3))
    dit = VideoDiT(32, BLOCKS, 2, 64, text_dim=8, attention=attention)
    decoder = TinyConditionalDecoder(channels=(8, 8, 8, 8), **options)
    return FlashVSR(LRProjection(hidden=(8, 12), dim=32), dit, decoder, torch.randn(1, 5, 8)).requires_grad_(False)


def _video(frames: int, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (frames, 3, side, side), dtype=torch.uint8, generator=generator)


@cache
def _plain(latents_per_pass: int) -> torch.Tensor:
    return _system(latents_per_pass=latents_per_pass).upscale(_video(33))


def _full_size() -> FlashVSR:
    with torch.device("meta"):
        parts = lr_projection_1b(), video_dit_1b(), tiny_conditional_decoder_1b(), torch.empty(1, 512, 4096)
        return FlashVSR(*parts).to(torch.bfloat16).requires_grad_(False)


@pytest.fixture(scope="module")
def full_size() -> FlashVSR:
    return _full_size()


@pytest.mark.parametrize(
    ("away", "latents_per_pass"),
    [
        ((0, 0, False), 1),
        ((3, 0, False), 2),
        ((BLOCKS, 0, False), 1),
        ((BLOCKS, 3, False), 1),
        ((BLOCKS, BLOCKS, False), 2),
        ((BLOCKS, BLOCKS, True), 1),
    ],
)
def test_whatever_lies_on_the_host_no_bit_of_a_frame_changes(away, latents_per_pass, monkeypatch):
    monkeypatch.setattr(memory_plan, "RESERVE_GIB", 0.0)
    if away[2]:  # which saves nothing at this size
        monkeypatch.setattr(memory_plan, "plan_memory", lambda *given: replace(plan_memory(*given), rests=True))
    video, limited, expected = _video(33), _system(latents_per_pass=latents_per_pass), _plain(latents_per_pass)
    limited.gpu_gib = estimate_needs(limited, 128, 128).peak(*away) / GIB
    keep_on_host(limited.dit, torch.device("cpu"))
    stream = limited.stream(height=32, width=32)
    begun = stream.push(video[:25])
    placed = limited.dit.host_blocks.away if limited.dit.host_blocks else 0
    plan = limited.placement.plan
    assert (plan.layers_away, plan.blocks_away, plan.rests, placed) == (*away, away[1])
    assert (limited.placement.projection is not None) == plan.rests
    assert stream._state.dit.cache._away == away[0]
    resumed = limited.stream(height=32, width=32, state=stream.state_dict())
    for rest in (stream, resumed):
        assert torch.equal(torch.cat([begun, rest.push(video[25:]), rest.finish()]), expected)


def test_a_limited_stream_never_has_the_frames_of_a_whole_chunk():
    system, seen = _system(), []
    system.gpu_gib = 1000.0
    system.color.register_forward_hook(lambda module, inputs, frames: seen.append(frames.shape[2]))
    assert len(system.upscale(_video(29))) == 29
    assert seen == [1, 4, 4, 4, 4, 4, 4, 4]


def test_less_memory_never_means_fewer_means():
    moments = Moment("a", GIB, idle=GIB // 4), Moment("b", GIB // 2, 2, 9, idle=GIB // 2)
    needs = MemoryNeeds((128, 128), 100 * 2**20, 30, 90 * 2**20, 150 * 2**20, moments)
    least = memory_plan.RESERVE_GIB + needs.peak(30, 30, True) / GIB
    plans = [plan_memory(needs, least + step / 20) for step in range(200)]
    means = [(plan.layers_away, plan.blocks_away, plan.rests) for plan in plans]
    assert means == sorted(means, reverse=True)
    assert {0, 30} < {layers for layers, *_ in means}
    assert means[0] == (30, 30, True)
    assert means[-1] == (0, 0, False)
    assert all(plan.estimated_gib <= plan.gib for plan in plans)
    for plan in plans:  # what is asked of the cache is what it does
        room = math.inf if plan.cache_gib is None else plan.cache_gib
        away = 0 if 30 * needs.layer <= room * GIB else 30 - (int(room * GIB // needs.layer) - 2)
        assert away == plan.layers_away


def test_what_cannot_fit_is_refused_in_one_line_that_says_what_would(monkeypatch):
    system = _system()
    system.gpu_gib = 0.5
    with pytest.raises(
        ValueError, match=r"^128x256 needs at least 1\.\d GiB of the GPU, more than --gpu-gib 0\.5: "
    ) as info:
        system.stream(height=32, width=33)
    assert "\n" not in str(info.value)
    system.gpu_gib = float(str(info.value).split("at least ")[1].split()[0])
    system.stream(height=32, width=33)
    assert system.paths()["memory"].startswith(f"about {system.gpu_gib} of {system.gpu_gib:g} GiB")


@pytest.mark.parametrize(("height", "width", "measured"), [(768, 1408, 9.95), (1152, 2048, 15.94)])
def test_the_estimate_without_a_limit_is_what_an_h200_took(full_size, height, width, measured):
    estimated = estimate_needs(full_size, height, width).peak(0, 0) / GIB
    assert 0.85 < measured - estimated < 1.1  # the allocator's own
    assert measured - estimated < memory_plan.RESERVE_GIB


@pytest.mark.parametrize(
    ("height", "width", "gib"),
    [(768, 1408, 6), (1152, 2048, 8), (2176, 3840, 12), (768, 1408, 3.1), (1152, 2048, 4)],
)
def test_the_full_size_model_fits_by_estimate(full_size, height, width, gib):
    plan = plan_memory(estimate_needs(full_size, height, width), gib)
    assert plan.layers_away > 20
    assert plan.rests == (gib in (3.1, 4))
    assert f"of {gib} GiB, with keys and values of {plan.layers_away} layers" in str(plan)


@pytest.mark.parametrize(("height", "width"), [(768, 1408), (2176, 3840)])
def test_a_transformer_takes_no_more_than_is_counted_for_it(height, width, monkeypatch):
    script = importlib.util.spec_from_file_location("live_bytes", SCRIPT)
    live_bytes = importlib.util.module_from_spec(script)
    script.loader.exec_module(live_bytes)
    for module, name, stand_in in live_bytes.stand_ins():
        monkeypatch.setattr(module, name, stand_in)
    with torch.device("meta"):
        dit = video_dit_1b(partial(LocalSparseAttention)).to(torch.bfloat16).requires_grad_(False)
        dit.blocks = dit.blocks[:2]
        state, prompt = None, torch.empty(1, 512, 4096, dtype=torch.bfloat16)
        for frames in (6, 2, 2):
            latents = torch.empty(1, 16, frames, height // 8, width // 8, dtype=torch.bfloat16)
            tokens = frames * height * width // 256
            lr_tokens = torch.empty(1, tokens, 1536, dtype=torch.bfloat16)
            keys = tokens + (0 if state is None else state.cache.filled * state.cache.slot_tokens)
            with torch.inference_mode(), live_bytes.LiveBytes() as live:
                _, state = dit(latents, torch.ones(1), lr_tokens=lr_tokens, prompt=prompt, state=state)
            kept = live.live if frames == 6 else 0  # keys and values, the prompt in the blocks
            counted, bound = live.peak - kept + lr_tokens.nbytes, transformer_bytes(dit, tokens, keys)
            assert 0.6 * bound < counted < bound


@pytest.mark.parametrize("impl", ["triton_8bit", "triton_int8"])
def test_attention_in_8_bits_takes_no_more_than_is_counted_for_it(impl, monkeypatch):
    launch = pytest.importorskip("flashvsr.kernels.attention_8bit_launch", reason="triton is not installed")
    from flashvsr.kernels.attention_triton_launch import Operands

    class Nothing:
        def __getitem__(self, grid):
            return lambda *_, **__: None

    for name in ("mean_of_blocks", "quantize_blocks", "quantize_values"):
        monkeypatch.setattr(launch.kernels, name, Nothing())
    tokens, past, dim = 66 * 128, 3 * 66 * 128, 1536
    with torch.device("meta"), torch.inference_mode():
        query, *pieces = (torch.empty(1, 12, n, 128, dtype=torch.bfloat16) for n in (tokens, past, tokens))
        mask = torch.empty(1, 12, 66, 264, dtype=torch.bool)
        operands = Operands(query, tuple(pieces), tuple(pieces), 128, 1.0)
        with LiveBytes() as live:
            kept = launch.quantize(operands, mask, torch.float8_e4m3fn if impl == "triton_8bit" else None)
    assert kept.query.dtype == torch.int8
    bound = rounded_bytes(impl, tokens, past + tokens, dim)
    assert 0.95 * bound < live.peak < bound
    assert rounded_bytes("triton", tokens, past + tokens, dim) == rounded_bytes("auto", tokens, past, dim) == 0


def test_a_limit_that_cannot_be_kept_is_refused_before_anything_is_loaded(tmp_path, capsys):
    save_small_system(tmp_path / "model")
    cuda = [torch.device("cuda", index) for index in range(2)]
    for refused, message in (
        (
            lambda: check_limit(6, cuda, None, "tiny"),
            "gpu_gib=6 is for one GPU, and there are cuda:0, cuda:1: name one",
        ),
        (
            lambda: check_limit(6, cuda[:1], 4, "tiny"),
            "gpu_gib=6 decides where keys and values lie: leave out cache_gib=4",
        ),
        (lambda: check_limit(0, cuda[:1], None, "tiny"), "gpu_gib is a positive number of GiB, got 0"),
        (lambda: check_limit(math.nan, cuda[:1], None, "tiny"), "gpu_gib is a positive number of GiB, got nan"),
        (lambda: check_limit(6, cuda[:1], None, "full"), "gpu_gib=6 does not count what the full decoder takes: leave"),
        (lambda: flashvsr.load(tmp_path / "model", gpu_gib=6, device="cpu"), "is for a GPU, and the device is cpu"),
        (lambda: flashvsr.load("nano", gpu_gib=6, device="cpu"), "is for a GPU, and the device is cpu: leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    check_limit(6, cuda[:1], None, "tiny")
    bench = ["bench", "--model", str(tmp_path / "model"), "--size", "128x128", "--device", "cpu", "--gpu-gib", "6"]
    assert main(bench) == 1
    assert capsys.readouterr().err == "flashvsr: gpu_gib=6 is for a GPU, and the device is cpu: leave it out\n"


def test_a_copy_with_another_detail_shares_what_lies_on_the_host(monkeypatch):
    monkeypatch.setattr(memory_plan, "plan_memory", lambda *given: replace(plan_memory(*given), rests=True))
    system = _system()
    expected = [system.with_detail(detail).upscale(_video(9)) for detail in (0.5, 1)]
    half = system.with_detail(0.5)
    half.gpu_gib = system.gpu_gib = 1000.0
    assert torch.equal(half.upscale(_video(9)), expected[0])
    assert half.placement is system.placement
    assert torch.equal(system.upscale(_video(9)), expected[1])


def test_the_allocator_of_the_right_gpu_is_held_to_the_limit(monkeypatch):
    asked: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *arguments: asked.append(arguments))
    for device, gib in (("cuda", 6), ("cuda:1", 12), ("cuda:0", 80)):
        limit_allocator(torch.device(device), gib)
    assert asked == [(0.25, 3), (0.5, 1), (1.0, 0)]
    assert all(isinstance(fraction, float) for fraction, _ in asked)


def test_a_host_without_the_memory_that_the_gpu_lacks_is_refused_before_the_system_kills_the_run(monkeypatch):
    monkeypatch.setattr(memory_plan, "RESERVE_GIB", 0.0)
    system, needs = _system(), estimate_needs(_system(), 128, 128)
    system.gpu_gib = needs.peak(3, 0) / GIB
    monkeypatch.setattr(memory_plan, "available_bytes", lambda: 3 * needs.layer - 1)
    with pytest.raises(
        ValueError, match=r"^128x128 with --gpu-gib \S+ needs \d+\.\d GiB of the host's memory, of which"
    ):
        system.stream(height=32, width=32)
    for enough in (3 * needs.layer, None):
        monkeypatch.setattr(memory_plan, "available_bytes", lambda enough=enough: enough)
        system.placement.plan = None
        system.stream(height=32, width=32)
    system.upscale(_video(9))
    assert system.dit.spare_bytes == 3 * needs.layer  # which the next stream takes
    system.placement.plan = None
    monkeypatch.setattr(memory_plan, "available_bytes", lambda: 0)
    system.stream(height=32, width=32)


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="the system does not tell: what it has was not read")
def test_the_memory_that_a_linux_host_has_left_is_read():
    assert 2**20 < memory_plan.available_bytes() < 2**50


def test_a_decoder_alone_is_counted_and_refused_where_it_does_not_fit():
    decoder = TinyConditionalDecoder(channels=(16, 16, 8, 8), residual=True)
    system = DecoderSystem(decoder).requires_grad_(False)
    counted = estimate_decoder_needs(system, 256, 384).peak(0, 0) - sum(x.nbytes for x in system.parameters())
    lr, state, peaks = torch.rand(1, 3, 5, 256, 384), None, []
    for frames in (lr[:, :, :1], lr[:, :, 1:]):
        with torch.inference_mode(), LiveBytes() as live:
            _, state = system.step(frames, None, state)
        peaks.append(live.peak + frames.nbytes)
    assert 0.8 * counted < max(peaks) < counted + 2**20  # a CPU takes smaller bands, and the public frames came besides
    system.gpu_gib = memory_plan.RESERVE_GIB
    with pytest.raises(ValueError, match=r"^256x384 needs at least 1\.\d GiB of the GPU, more than --gpu-gib 1\.25"):
        system.stream(height=64, width=96)
    with pytest.raises(ValueError, match="256x384 needs at least"):
        system.upscale(torch.rand(1, 3, 64, 96))
    system.gpu_gib += 0.25
    assert system.upscale(torch.rand(1, 3, 64, 96)).shape == (1, 3, 256, 384)


def test_later_streams_leave_on_the_host_what_an_earlier_one_put_there(monkeypatch):
    monkeypatch.setattr(memory_plan, "RESERVE_GIB", 0.0)
    system, needs = _system(), [estimate_needs(_system(), side, side) for side in (128, 256)]
    keep_on_host(system.dit, torch.device("cpu"))
    system.gpu_gib = needs[1].peak(BLOCKS, 3) / GIB
    assert needs[0].peak(0, 0) / GIB < system.gpu_gib
    expected = {side: _system().upscale(_video(9, side)) for side in (32, 64)}
    for side, away in ((32, 0), (64, 3), (32, 3)):
        assert torch.equal(system.upscale(_video(9, side)), expected[side])
        assert (system.dit.host_blocks.away if system.dit.host_blocks else 0) == away


@pytest.mark.gpu
@pytest.mark.slow  # the full-size model is written and loaded twice, in fresh processes: about two minutes
def test_a_fresh_process_keeps_to_its_limit_on_a_gpu_and_gives_the_same_frames():
    command = [sys.executable, str(SCRIPT.with_name("gpu_memory.py")), "--limits", "768x1408=6", "--chunks", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.gpu
def test_weights_keys_and_values_on_the_host_change_no_bit_on_a_gpu(monkeypatch):
    device = torch.device("cuda", torch.cuda.current_device())
    monkeypatch.setattr(memory_plan, "RESERVE_GIB", 0.0)
    monkeypatch.setattr(memory_plan, "plan_memory", lambda *given: replace(plan_memory(*given), rests=True))
    video, limited = _video(49), _system()
    expected = _system().to(device).upscale(video)
    limited.gpu_gib = estimate_needs(limited, 128, 128).peak(BLOCKS, BLOCKS) / GIB
    keep_on_host(limited.dit, device)
    for part in (limited.projection, limited.decoder, limited.color):
        part.to(device)
    limited.prompt = limited.prompt.to(device)
    assert torch.equal(limited.upscale(video), expected)
    assert limited.dit.host_blocks.away == limited.placement.plan.layers_away == BLOCKS
    assert limited.projection.conv1.weight.device.type == "cpu"


@pytest.mark.parametrize("fp8", [False, True])
def test_a_model_that_is_loaded_under_a_limit_gives_the_same_frames(tmp_path, monkeypatch, fp8):
    save_small_system(tmp_path / "model")
    held: list[float] = []
    monkeypatch.setattr(loading, "check_limit", lambda *arguments: None)  # which wants a GPU
    monkeypatch.setattr(loading, "limit_allocator", lambda device, gib: held.append(gib))
    options = {"device": "cpu", "dtype": "fp32", "fp8": fp8}
    plain, limited = (flashvsr.load(tmp_path / "model", gpu_gib=gib, **options) for gib in (None, 2.5))
    assert held == [2.5]
    assert limited.dit.host_blocks.away == len(limited.dit.blocks)
    assert torch.equal(limited.upscale(_video(9)), plain.upscale(_video(9)))
    assert limited.dit.host_blocks is None
    assert limited.paths()["memory"].endswith("of 2.5 GiB")
