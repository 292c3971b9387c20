from functools import partial

import pytest
import torch

from flashvsr.attention import LocalSparseAttention
from flashvsr.bench import PARTS, bench
from flashvsr.cli import main
from flashvsr.decoders import TinyConditionalDecoder
from flashvsr.models import DecoderSystem, FlashVSR, LRProjection, VideoDiT
from flashvsr.models.class_paths import build
from flashvsr.models.folder import Component, save_model_folder


def test_the_parts_add_up_to_the_chunk_and_attention_is_counted():
    result = bench(_system(impl="auto"), height=128, width=128, chunks=2)
    assert [part.name for part in result.parts][:-1] == list(PARTS)
    assert all(part.milliseconds > 0 for part in result.parts[:-2])
    assert sum(part.milliseconds for part in result.parts) == pytest.approx(result.chunk_ms)
    flops = {part.name: part.teraflops for part in result.parts}
    assert flops["dit"] > 1e-5
    assert flops["decoder"] > 1e-5
    assert result.frames_per_second == pytest.approx(8000 / result.chunk_ms)
    assert "| decoder |" in result.table()
    assert 0 < result.late_over_early < 10
    assert "keys and values: on the device" in result.table()
    assert "attention: gather" in result.table()


def _system(impl: str = "dense") -> FlashVSR:
    torch.manual_seed(0)
    attention = partial(LocalSparseAttention, rule="keep_all_when_covered", impl=impl)
    dit = VideoDiT(32, 2, 2, 64, text_dim=8, attention=attention)
    parts = LRProjection(hidden=(8, 12), dim=32), dit, TinyConditionalDecoder(channels=(8, 8, 8, 8))
    return FlashVSR(*parts, prompt=torch.randn(1, 5, 8), color="none").requires_grad_(False)


def test_operations_are_those_of_the_formulas():
    flops = {part.name: part.teraflops * 1e12 for part in bench(_system(), height=128, width=128, chunks=1).parts}
    tokens, keys, dim, layers = 2 * 8 * 8, 4 * 2 * 8 * 8, 32, 2  # 3 slots of the past and the chunk: all is covered
    linear = layers * tokens * (6 * dim**2 + 2 * dim * 64)  # q, k, v, o; q, o of the prompt's; feed-forward
    time = 256 * dim + dim**2 + 6 * dim**2
    attention = layers * 2 * tokens * (keys + 5) * dim
    assert flops["dit"] == pytest.approx(2 * (linear + time + attention + tokens * dim * 64))
    cells = 8 * 8
    conv1, conv2 = 4 * 768 * 4 * 9 * 8, 2 * 8 * 4 * 9 * 12  # outputs in time, in, taps in time and space, out
    assert flops["projection"] == pytest.approx(2 * cells * (conv1 + conv2 + 2 * 12 * dim))
    assert flops["color"] == 0


def test_a_decoder_alone_is_timed_without_the_parts_it_does_not_have():
    decoder = TinyConditionalDecoder(channels=(8, 8, 8, 8), residual=True)
    result = bench(DecoderSystem(decoder).requires_grad_(False), height=64, width=64, chunks=1)
    assert [part.name for part in result.parts] == ["decoder", "color", "resize, pad, noise, host"]
    assert result.parts[0].teraflops > 0
    assert result.frames_per_second == pytest.approx(4000 / result.chunk_ms)


def test_a_decoder_that_is_called_for_every_latent_is_counted_for_the_whole_chunk():
    results = []
    for limit in (None, 1000.0):
        system = _system()
        system.gpu_gib = limit
        results.append(bench(system, height=128, width=128, chunks=2))
    plain, limited = ({part.name: part.teraflops for part in result.parts} for result in results)
    assert limited == pytest.approx(plain, rel=1e-3)  # kernels are joined for each call
    assert sum(part.milliseconds for part in results[1].parts) == pytest.approx(results[1].chunk_ms)


def test_warm_runs_a_stream_and_measures_nothing(capsys):
    assert main(["bench", "--warm", "--size", "128x128", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("kernels for 128x128 are compiled and kept: the first frames came after")
    assert "frames/s" not in out
    assert main(["bench", "--warm", "--size", "130x128", "--device", "cpu"]) == 1
    assert "multiple of 4: got 130x128" in capsys.readouterr().err


@pytest.mark.gpu
def test_fused_convolutions_are_counted_as_the_plain_ones():
    system = _system().cuda()
    fused = bench(system, height=128, width=128, chunks=1).parts
    with torch.backends.cudnn.flags(enabled=False):
        plain = bench(system, height=128, width=128, chunks=1).parts
    assert [part.teraflops for part in fused] == pytest.approx([part.teraflops for part in plain])
    assert all(part.peak_gib > 0 for part in fused[:-1])


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    sizes = {
        "projection": ("LRProjection", {"hidden": [8, 12], "dim": 32}),
        "dit": ("VideoDiT", {"dim": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "text_dim": None}),
        "decoder": ("TinyConditionalDecoder", {"channels": [8, 8, 8, 8]}),
    }
    parts = {}
    for name, (kind, arguments) in sizes.items():
        class_path = f"flashvsr.{'decoders' if name == 'decoder' else 'models'}.{kind}"
        parts[name] = Component(class_path, arguments, build(class_path, arguments))
    save_model_folder(tmp_path / "model", parts)
    path = tmp_path / "bench.json"
    use = ["--model", str(tmp_path / "model"), "--device", "cpu", "--json", str(path)]
    assert main(["bench", "--size", "128x256", "--chunks", "1", *use]) == 0
    assert capsys.readouterr().out.startswith("128x256 on CPU")  # in the order of --size
    assert '"frames_per_second"' in path.read_text()


def test_a_size_that_makes_no_sense_is_one_line(capsys):
    assert main(["bench", "--size", "big"]) == 2
    assert capsys.readouterr().err == "flashvsr: --size is rows x columns, such as 768x1408; got 'big'\n"
    assert main(["bench", "--size", "129x128", "--device", "cpu"]) == 1
    assert "multiple of 4" in capsys.readouterr().err


def test_benchmarking_leaves_no_hooks_behind():
    system = _system()
    bench(system, height=128, width=128, chunks=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in system.modules())
    assert torch.is_grad_enabled()
