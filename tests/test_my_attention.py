"""The example of a package outside flashvsr: it is installed, trained, exported, streamed and judged by the command."""

from __future__ import annotations

import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import yaml

import flashvsr
from flashvsr.attention import KVCache, TokenGrid, rope_table
from flashvsr.cli import main
from flashvsr.video import VideoInfo, VideoReader

EXAMPLE = Path(__file__).parents[1] / "examples" / "my_attention"
SMALL = {
    "trainer.accelerator": "cpu",
    "trainer.max_steps": "2",
    "trainer.limit_val_batches": "1",
    "data.val": "shards/train/*.tar",
    "data.batch_size": "1",
    "data.frames": "9",
    "data.crop": "128",
    "data.epoch.batches": "2",
    "data.epoch.echo": "1",
    "data.loader.workers": "0",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder that pip installed the example into."""
    folder = tmp_path_factory.mktemp("my_attention")
    shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", folder / "site", folder / "source"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(autouse=True)
def installed(site, monkeypatch):
    monkeypatch.syspath_prepend(site)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_attention"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_package_outside_flashvsr_is_trained_exported_streamed_and_judged(tmp_path, monkeypatch, write_clip, capsys):
    monkeypatch.chdir(tmp_path)
    info = VideoInfo(128, 128, Fraction(25), Fraction(1, 90000))
    write_clip(tmp_path / "clip.mp4", [Fraction(number, 25) for number in range(10)], info)
    assert main(["shards", "make", "clip.mp4", "--out", "shards/train"]) == 0
    small = [f"--{key}={value}" for key, value in SMALL.items()]
    assert main(["fit", "-c", str(EXAMPLE / "recipe.yaml"), *small, "--trust-code=false"]) == 1
    assert "my_attention.AxialAttention is not part of flashvsr" in capsys.readouterr().err
    assert main(["fit", "-c", str(EXAMPLE / "recipe.yaml"), *small]) == 0
    said = yaml.safe_load(Path("runs/mine/axial/model.yaml").read_text())
    assert set(said["foreign"]) == {"my_attention.AxialAttention", "my_attention.FadingDecoder"}

    write_clip(
        tmp_path / "small.mp4",
        [Fraction(number, 25) for number in range(3)],
        VideoInfo(48, 32, Fraction(25), Fraction(1, 90000)),
    )
    use = ["--model", "runs/mine/axial", "--trust-code", "--device", "cpu"]
    assert main(["upscale", "small.mp4", "large.mp4", *use, "--quiet"]) == 0
    with VideoReader("large.mp4") as large:
        assert (large.info.width, large.info.height) == (192, 128)
    capsys.readouterr()
    judged = ["--data", "clip.mp4", "--frames", "3", "--metrics", "psnr", "--short-side", "0", "--downscale", "1"]
    assert main(["evaluate", *judged, "--degrade", "bicubic", *use]) == 0
    assert "axial" in capsys.readouterr().out
    assert main(["bench", *use, "--size", "128x128", "--chunks", "1"]) == 0


@torch.no_grad()
def test_both_parts_stream_what_they_compute_at_once():
    from my_attention import AxialAttention, FadingDecoder

    torch.manual_seed(0)
    layer, x = AxialAttention(24, 2, history=1), torch.randn(1, 5 * 6 * 128, 24)
    whole = layer(x, grid := TokenGrid(10, 16, 24), rope_table(grid, 12, order="block"))
    cache, parts = KVCache(1, 1, 6 * 128, 2, 12), []
    for chunk in x.split([3 * 768, 768, 768], 1):
        grid = TokenGrid(2 * chunk.shape[1] // 768, 16, 24, frame_offset=2 * cache.slots_seen)
        parts.append(layer(chunk, grid, rope_table(grid, 12, order="block"), cache=cache))
        cache.advance(grid.slots)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)

    decoder, latents, lr = FadingDecoder(), torch.randn(1, 16, 4, 2, 3), torch.randn(1, 3, 13, 16, 24)
    frames, _ = decoder(latents, lr)
    first, state = decoder(latents[:, :, :1], lr[:, :, :1])
    second, state = decoder(latents[:, :, 1:3], lr[:, :, 1:9], state)
    third, _ = decoder(latents[:, :, 3:], lr[:, :, 9:], type(state).from_state_dict(state.state_dict()))
    torch.testing.assert_close(torch.cat((first, second, third), 2), frames)
    assert not torch.equal(frames, lr)


def test_the_attention_sees_rows_and_columns_and_nothing_else():
    from my_attention import axial_mask

    mask = axial_mask((3, 4)).view(3, 4, 3, 4)
    expected = [[row == 1 or column == 2 for column in range(4)] for row in range(3)]
    assert mask[1, 2].tolist() == expected


def test_an_own_attention_without_a_choice_of_implementations_streams_and_refuses_one():
    from my_attention import AxialAttention

    from flashvsr.models import FlashVSR, LRProjection, VideoDiT
    from flashvsr.models.loading import adjust_attention

    dit = VideoDiT(dim=24, layers=1, heads=2, ffn_dim=24, text_dim=None, attention=AxialAttention)
    system = FlashVSR(LRProjection(hidden=(8, 8), dim=24), dit, flashvsr.decoders.TinyDecoder(channels=(4, 4, 4, 4)))
    assert "selection" not in system.paths()
    adjust_attention(dit, "reference", None)
    assert system.paths()["attention"] == "reference (as asked)"
    with pytest.raises(ValueError, match="AxialAttention has no sparse_ratio"):
        adjust_attention(dit, "auto", 0.5)
    del dit.blocks[0].self_attn.impl
    assert system.paths()["attention"] == "AxialAttention (of its own)"
    with pytest.raises(ValueError, match="AxialAttention has no impl"):
        adjust_attention(dit, "gather", None)
