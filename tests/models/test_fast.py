"""Fast mode: its parts, what it chooses, and that it says what it cannot do."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import flashvsr
from flashvsr.cli import main
from flashvsr.models import VideoDiT, fast, fp8
from flashvsr.models.fast import check_fast, fast_choices
from flashvsr.models.fp8 import Fp8Linear
from flashvsr.upscale import ClipOptions, EncodeOptions, LoadOptions
from flashvsr.upscale.fingerprint import asked_for
from tests.small_folder import save_small_system

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may run fast mode")


def _dit(text_dim: int | None = 16) -> VideoDiT:
    torch.manual_seed(0)
    return VideoDiT(32, 1, 2, 64, text_dim=text_dim).requires_grad_(False)


def test_every_linear_layer_that_tokens_pass_is_in_8_bits_and_the_prompts_own_are_not():
    dit = _dit()
    fast.use_fp8(dit, torch.device("cpu"), torch.float32)
    kinds = {name: type(layer) for name, layer in dit.blocks[0].named_modules() if hasattr(layer, "in_features")}
    exact = {name for name, kind in kinds.items() if kind is nn.Linear}
    assert exact == {"cross_attn.k", "cross_attn.v"}
    assert {name for name, kind in kinds.items() if kind is Fp8Linear} == {
        *(f"self_attn.{name}" for name in "qkvo"), "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2"
    }  # fmt: skip


def test_queries_keys_and_values_are_quantised_together(monkeypatch):
    dit, calls = _dit(None), []
    latents = torch.randn(1, 16, 2, 16, 16)
    exact = dit(latents, torch.tensor([1000.0]))[0]
    fast.use_fp8(dit, torch.device("cpu"), torch.float32)
    quantize = fp8.quantize_rows
    monkeypatch.setattr(fp8, "quantize_rows", lambda *args, **options: calls.append(1) or quantize(*args, **options))
    velocity = dit(latents, torch.tensor([1000.0]))[0]
    assert len(calls) == 4  # queries, keys and values; output; and both layers of the feed-forward network
    assert 0 < (velocity - exact).norm() / exact.norm() < 0.1


def test_fast_mode_fills_in_what_was_left_open():
    dit = _dit()
    assert fast_choices(dit) == ("triton_8bit", 1.5)
    assert fast_choices(dit, impl="hopper", sparse_ratio=1.8) == ("hopper", 1.8)
    dit.blocks[0].self_attn.selection.sparse_ratio = 0.5
    assert fast_choices(dit) == ("triton_8bit", None)


def test_kernels_that_compute_something_else_are_refused(monkeypatch):
    monkeypatch.setattr(fast, "unavailable", lambda *_: None)
    monkeypatch.setattr(type(fast.EIGHT_BIT), "unavailable", lambda *_, **__: None)
    monkeypatch.setattr(fast, "disproof", lambda **_: "attention in 8 bits is off by 30 %")
    where = (torch.device("cuda"), torch.bfloat16)
    with pytest.raises(ValueError, match="cannot run here: attention in 8 bits is off by 30 %"):
        check_fast(*where)
    check_fast(*where, impl="hopper")


def test_a_gpu_without_8_bit_floats_is_told_which_part_it_can_have(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(ValueError, match=r"needs compute capability 8.9, this GPU has 8.6.*triton_int8"):
        check_fast(torch.device("cuda"), torch.bfloat16)
    with pytest.raises(ValueError, match=r"not torch\.float16"):
        check_fast(torch.device("cuda"), torch.float16)


@needs_no_gpu
def test_a_cpu_and_a_decoder_alone_refuse_it(tmp_path, capsys):
    save_small_system(tmp_path / "model")
    with pytest.raises(ValueError, match="fast mode cannot run here: it needs a GPU"):
        flashvsr.load(tmp_path / "model", fast=True)
    with pytest.raises(ValueError, match="leave out fast=True"):
        flashvsr.load("nano", fast=True)
    picture, out = tmp_path / "in.png", tmp_path / "out.png"
    Image.new("RGB", (32, 32)).save(picture)
    assert main(["upscale", str(picture), str(out), "--model", str(tmp_path / "model"), "--fast", "--quiet"]) == 1
    assert "fast mode cannot run here" in capsys.readouterr().err
    assert not out.exists()
    assert main(["bench", "--model", str(tmp_path / "model"), "--size", "128x128", "--fast"]) == 1


def test_a_run_in_fast_mode_is_told_from_another():
    clip, encoding = ClipOptions(), EncodeOptions()

    def asked(**options):
        loading = LoadOptions(**options)
        return asked_for("example:", "nano", clip=clip, loading=loading, encoding=encoding, scale=4, seed=0)

    assert asked(fast=True) != asked()
    assert asked()["fast"] is None  # as in runs that knew no fast mode


@pytest.mark.gpu
def test_fast_frames_are_near_the_exact_ones(tmp_path: Path):
    save_small_system(tmp_path / "model")
    exact, quick = (flashvsr.load(tmp_path / "model", dtype="bf16", fast=on) for on in (False, True))
    video = torch.rand(33, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert quick.paths()["attention"].startswith("triton_8bit")
    difference = (quick.upscale(video) - exact.upscale(video)).abs().mean()
    assert 0 < difference < 0.02
