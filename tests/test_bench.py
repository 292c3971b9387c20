import pytest
import torch

import flashvsr
from flashvsr.bench import PARTS, bench
from flashvsr.cli import main


def test_the_parts_add_up_to_the_chunk_and_attention_is_counted():
    result = bench(flashvsr.load("nano", device="cpu"), height=128, width=128, chunks=2)
    assert [part.name for part in result.parts][:-1] == list(PARTS)
    assert all(part.milliseconds > 0 for part in result.parts[:-2])
    assert sum(part.milliseconds for part in result.parts) == pytest.approx(result.chunk_ms)
    flops = {part.name: part.teraflops for part in result.parts}
    assert flops["dit"] > 1e-4
    assert flops["decoder"] > 1e-4
    assert result.frames_per_second == pytest.approx(8000 / result.chunk_ms)
    assert "| decoder |" in result.table()


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "bench.json"
    assert main(["bench", "--size", "128x128", "--chunks", "1", "--device", "cpu", "--json", str(path)]) == 0
    assert "frames/s" in capsys.readouterr().out
    assert '"frames_per_second"' in path.read_text()


def test_a_size_that_makes_no_sense_is_one_line(capsys):
    assert main(["bench", "--size", "big"]) == 2
    assert capsys.readouterr().err == "flashvsr: --size is rows x columns, such as 768x1408; got 'big'\n"
    assert main(["bench", "--size", "129x128", "--device", "cpu"]) == 1
    assert "multiple of 4" in capsys.readouterr().err


def test_benchmarking_leaves_no_hooks_behind():
    system = flashvsr.load("nano", device="cpu")
    bench(system, height=128, width=128, chunks=1)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in system.modules())
    assert torch.is_grad_enabled()
