"""One system on several devices: the same frames, the same saved states, a fair share for each, and clear refusals."""

import os
import threading
from functools import partial
from itertools import combinations_with_replacement, pairwise

import pytest
import torch

import flashvsr
from flashvsr.attention import LocalSparseAttention
from flashvsr.cli import main
from flashvsr.decoders import TinyConditionalDecoder
from flashvsr.models import FlashVSR, LRProjection, VideoDiT
from flashvsr.models.loading import choose_devices
from flashvsr.models.parallel import StagedCache, estimate_times, split_blocks, spread
from flashvsr.streaming import Geometry, Stream, chunk_noise
from tests.small_folder import save_small_system

CPU = torch.device("cpu")


def _system(dim: int = 32, layers: int = 5) -> FlashVSR:
    torch.manual_seed(0)
    attention = partial(LocalSparseAttention, history=2, sparse_ratio=0.5, window_hw=(3, 3))
    dit = VideoDiT(dim, layers, max(1, dim // 128), 2 * dim, text_dim=8, attention=attention)
    for parameter in dit.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    parts = LRProjection(hidden=(8, 12), dim=dim), dit, TinyConditionalDecoder(channels=(8, 8, 8, 8))
    return FlashVSR(*parts, prompt=torch.randn(1, 5, 8)).requires_grad_(False)


def _video(frames: int, height: int = 32, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)


def _clear_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the allocator's settings out of the environment, and have a test that sets them take them back."""
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_equal, a, b))
    return a == b


@pytest.mark.parametrize("edges", [[0, 2, 5], [0, 1, 3, 5], [0, 5, 5], [0, 0, 3, 5]])
def test_stages_change_no_bit_of_the_frames_and_of_the_saved_state(edges):
    whole, video = _system(), _video(37)
    staged = spread(_system(), [CPU] * (len(edges) - 1), edges=edges)
    streams = [system.stream(height=32, width=32) for system in (whole, staged)]
    expected, got = (stream.push(video[:33]) for stream in streams)
    assert torch.equal(expected, got)
    saved = [stream.state_dict() for stream in streams]
    assert _equal(*saved)
    assert isinstance(streams[1]._state.dit.cache, StagedCache) == (len(staged.dit.stages()) > 1)
    streams.append(whole.stream(height=32, width=32, state=saved[1]))  # whoever saved it, either goes on with it
    streams.append(staged.stream(height=32, width=32, state=saved[0]))
    tails = [torch.cat([stream.push(video[33:]), stream.finish()]) for stream in streams]
    assert len(tails[0]) == 37 - 29
    assert all(torch.equal(tails[0], tail) for tail in tails[1:])


@pytest.mark.parametrize("detail", [0.0, 0.6])
def test_stages_change_no_bit_of_the_frames_at_any_detail(detail):
    whole, video = _system(), _video(37)
    expected = whole.with_detail(detail).upscale(video)
    staged = spread(_system(), [CPU, CPU], edges=[0, 2, 5]).with_detail(detail)
    assert torch.equal(staged.upscale(video), expected)
    assert not torch.equal(whole.upscale(video), expected)


def test_each_stage_keeps_the_keys_and_values_of_its_own_blocks_only():
    staged = spread(_system(), [CPU, CPU], edges=[0, 2, 5])
    stream = staged.stream(height=32, width=32)
    stream.push(_video(25))
    assert [cache.layers for cache in stream._state.dit.cache.parts] == [2, 3]
    assert [len(cache.keys) for cache in stream._state.dit.cache.parts] == [2, 3]


def test_a_branch_of_a_staged_stream_is_independent():
    staged = spread(_system(), [CPU, CPU], edges=[0, 2, 5])
    lr = torch.rand(1, 3, 25, 128, 128) * 2 - 1
    noise = torch.randn(1, 16, 6, 16, 16)
    with torch.inference_mode():
        _, state = staged.step(lr, noise)
        branch = state.clone()
        first, _ = staged.step(lr[:, :, :8], noise[:, :, :2], state)
        again, _ = staged.step(lr[:, :, :8], noise[:, :, :2], branch)
    assert torch.equal(first, again)


def test_keys_and_values_of_a_stage_may_lie_on_the_host():
    video, staged = _video(33), spread(_system(layers=7), [CPU, CPU], edges=[0, 3, 7])
    expected = _system(layers=7).upscale(video)
    staged.dit.cache_gib = 2 * 2 * 2 * 128 * 32 * 4 / 2**30  # two layers of keys and values, which is the least
    stream = staged.stream(height=32, width=32)
    got = torch.cat([stream.push(video), stream.finish()])
    assert all(cache.partly_on_host for cache in stream._state.dit.cache.parts)
    assert torch.equal(got, expected)


def test_an_error_in_the_second_stage_surfaces_and_leaves_nothing_behind():
    staged, video = spread(_system(), [CPU, CPU], edges=[0, 2, 5]), _video(33)
    expected, threads = staged.upscale(video), threading.active_count()
    stream = staged.stream(height=32, width=32)
    stream.push(video[:25])

    def fail(*_: object) -> None:
        raise RuntimeError("the second device is gone")

    handle = staged.dit.blocks[3].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the second device is gone"):
        stream.push(video[25:])
    handle.remove()
    del stream
    assert threading.active_count() == threads
    assert torch.equal(staged.upscale(video), expected)


@pytest.mark.parametrize("before", [0.0, 3.2, 9.0])
@pytest.mark.parametrize("after", [0.0, 2.5, 10.0, 50.0])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_the_slowest_stage_is_as_fast_as_any_split_makes_it(before, after, stages):
    def slowest(edges: list[int]) -> float:
        besides = [before, *[0.0] * (stages - 2), after] if stages > 1 else [before + after]
        return max(extra + stop - start for extra, (start, stop) in zip(besides, pairwise(edges), strict=True))

    edges = split_blocks(9, before, 1.0, after, stages)
    assert (edges[0], edges[-1], len(edges)) == (0, 9, stages + 1)
    assert edges == sorted(edges)
    every = ([0, *inner, 9] for inner in combinations_with_replacement(range(10), stages - 1))
    assert slowest(edges) == pytest.approx(min(map(slowest, every)))


def test_estimated_times_of_the_full_size_model_are_near_those_measured():
    from flashvsr.models import lr_projection_1b, tiny_conditional_decoder_1b, video_dit_1b

    with torch.device("meta"):
        parts = lr_projection_1b(), video_dit_1b(), tiny_conditional_decoder_1b(), torch.empty(1, 512, 4096)
        before, block, after = estimate_times(FlashVSR(*parts).bfloat16())
    # 768x1408 on an H200: 8.7 ms and resizing 2.2 ms, 80.2 ms for 30 blocks, decoder and colours 25.8 ms
    assert before / block == pytest.approx(10.9 / (80.2 / 30), rel=0.1)
    assert after / block == pytest.approx(25.8 / (80.2 / 30), rel=0.1)


@pytest.mark.parametrize("edges", [[0, 5], [0, 6, 5], [0, 2, 4], [1, 2, 5]])
def test_edges_that_do_not_fit_are_refused(edges):
    with pytest.raises(ValueError, match="edges of 2 devices go from 0 up to 5 blocks"):
        spread(_system(), [CPU, CPU], edges=edges)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda:0,cuda:2", "there is no device 'cuda:2' here: 2 CUDA GPUs"),
        ("cuda:0,cpu", "several devices are GPUs, such as cuda:0,cuda:1 or cuda:*; got cuda:0, cpu"),
        ("cpu,cpu", "several devices are GPUs"),
        ("cuda:1,cuda:1", "cuda:1 is named more than once"),
        ("cuda,cuda:0", "cuda:0 is named more than once"),
        ("cuda:0,", "device is auto, cpu, cuda or cuda:N; got ''"),
        ([], "several devices are GPUs"),
    ],
)
def test_devices_that_cannot_be_meant_are_refused_by_name(device, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=words.replace("*", r"\*")):
        choose_devices(device)


def test_gpus_are_named_with_commas_as_a_sequence_or_all_at_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    gpus = [torch.device("cuda", index) for index in range(3)]
    assert choose_devices("cuda:2, cuda:0") == [gpus[2], gpus[0]]
    assert choose_devices(["cuda:0", gpus[1]]) == gpus[:2]
    assert choose_devices("cuda:*") == gpus
    assert choose_devices("cpu") == choose_devices(CPU) == [CPU]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="there is no CUDA GPU here"):
        choose_devices("cuda:*")


def test_the_commands_refuse_such_devices_before_they_begin(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for command in (["bench"], ["upscale", "example:", str(tmp_path / "out.mp4"), "--quiet"]):
        assert main([*command, "--device", "cuda:0,cuda:0"]) == 1
        assert "cuda:0 is named more than once" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def test_memory_segments_that_grow_are_refused_on_several_gpus(monkeypatch):
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:512,expandable_segments:True")
    gpus = [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(ValueError, match="take expandable_segments:True out of PYTORCH_ALLOC_CONF"):
        spread(_system(), gpus, edges=[0, 2, 5])


@pytest.mark.parametrize(("device", "grows"), [("cuda:0", True), ("cuda:0,cuda:1", False), ("cuda:*", False)])
def test_the_command_lets_segments_grow_on_one_gpu_only(device, grows, monkeypatch, capsys):
    _clear_allocator(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main(["bench", "--device", device]) == 1
    assert "CUDA GPU" in capsys.readouterr().err
    assert (os.environ.get("PYTORCH_ALLOC_CONF") == "expandable_segments:True") == grows


def test_noise_drawn_in_a_thread_is_that_of_the_seed_and_leaves_no_thread():
    class System:
        geometry, device, dtype = Geometry(), torch.device("meta"), torch.float32

        def step(self, lr, noise, state):
            return torch.zeros(1, 3, 21 if state is None else 8, *lr.shape[-2:]), 0

    stream, threads = Stream(System(), height=32, width=32, seed=7), threading.active_count()
    for chunk in range(3):
        if chunk:
            stream._chunk = chunk
            stream._draw_ahead()
        expected = chunk_noise(Geometry(), 7, chunk, (128, 128))
        assert torch.equal(stream._next_noise(), expected)
    stream._draw_ahead()
    del stream
    for thread in threading.enumerate():
        if thread.name.startswith("flashvsr-noise"):
            thread.join(10)
            assert not thread.is_alive()
    assert threading.active_count() <= threads


def test_frames_of_the_first_device_come_back_on_the_last():
    class System:
        geometry, device, output_device = Geometry(), CPU, torch.device("meta")

        def step(self, lr, noise, state):
            return torch.zeros(1, 3, 21, *lr.shape[-2:], device="meta"), 0

    stream = Stream(System(), height=32, width=32)
    assert stream.push(_video(25, 32, 32)).device.type == "meta"


needs_two = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="fewer than two GPUs: transfers between them were not checked"
)


@pytest.mark.gpu
@needs_two
@pytest.mark.parametrize(("height", "width"), [(64, 96), (288, 512)])
def test_two_gpus_change_no_bit_whoever_saved_the_state(height, width, monkeypatch):
    _clear_allocator(monkeypatch)
    video, gpus = _video(25 + 8 * 12, height, width), [torch.device("cuda", 0), torch.device("cuda", 1)]
    one = _system(256).to(gpus[0], torch.bfloat16)
    expected = one.upscale(video)
    two = spread(_system(256).to(torch.bfloat16), gpus, edges=[0, 3, 5])
    assert {x.device for x in two.dit.blocks[3].parameters()} == {gpus[1]}
    assert torch.equal(two.upscale(video), expected)
    half = two.stream(height=height, width=width)
    begun = half.push(video[:73].to(gpus[0]))
    assert begun.device == gpus[1]
    saved = half.state_dict()
    for system in (one, two):
        later = system.stream(height=height, width=width, state=saved)
        tail = [later.push(video[73:].to(gpus[0])), later.finish()]
        assert torch.equal(torch.cat([begun.cpu(), *(part.cpu() for part in tail)]), expected)


@pytest.mark.gpu
@needs_two
def test_a_decoder_on_a_gpu_of_its_own_and_loading_onto_two_change_no_bit(monkeypatch, tmp_path):
    _clear_allocator(monkeypatch)
    video, gpus = _video(57, 64, 96), [torch.device("cuda", 0), torch.device("cuda", 1)]
    expected = _system(256).to(gpus[0], torch.bfloat16).upscale(video)
    alone = spread(_system(256).to(torch.bfloat16), gpus, edges=[0, 5, 5])
    assert torch.equal(alone.upscale(video), expected)
    save_small_system(tmp_path / "model")
    one, two = (flashvsr.load(tmp_path / "model", device=device) for device in ("cuda:0", "cuda:*"))
    assert len(two.devices) >= 2
    assert torch.equal(two.upscale(video), one.upscale(video))
