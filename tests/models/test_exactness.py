"""How far the fast paths of inference stray from fp32, next to plain bf16, under the same masks."""

from functools import partial

import pytest
import torch

from flashvsr.attention import LocalSparseAttention
from flashvsr.decoders import TinyConditionalDecoder
from flashvsr.models import FlashVSR, LRProjection, VideoDiT

SIZES = {"cpu": (128, 256, (16, 16, 8, 8)), "cuda": (256, 256, (32, 32, 16, 16))}
"""Height and width in pixels, and widths of the decoder, whose convolutions are slow in bf16 on a CPU."""
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@torch.no_grad()
def _system(channels: tuple[int, int, int, int]) -> FlashVSR:
    """Small, with weights under which every branch contributes: gates and biases of order one."""
    torch.manual_seed(0)
    attention = partial(LocalSparseAttention, sparse_ratio=0.03, window_hw=(3, 3))
    dit = VideoDiT(256, 3, 2, 1024, text_dim=32, attention=attention)
    system = FlashVSR(LRProjection(hidden=(64, 96), dim=256), dit, TinyConditionalDecoder(channels=channels),
                      prompt=torch.randn(1, 9, 32), color="none")  # fmt: skip
    for name, parameter in system.named_parameters():
        if "modulation" in name or "bias" in name:
            torch.nn.init.normal_(parameter, std=0.5)
        elif "norm" in name or "gamma" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        else:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    system.decoder.decoder["1"].weight[:, -16:].mul_(7)  # 16 channels of latents beside 768 of LR frames
    return system.requires_grad_(False)


def _chunks(height: int, width: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    cells = (height // 8, width // 8)
    return [
        (torch.rand(1, 3, lr, height, width, generator=generator) * 2 - 1,
         torch.randn(1, 16, latents, *cells, generator=generator))
        for lr, latents in ((25, 6), (8, 2))
    ]  # fmt: skip


def _run(
    device: str,
    dtype: torch.dtype,
    *,
    fast: bool,
    size: tuple[int, int, tuple[int, int, int, int]] = SIZES["cpu"],
    masks: list[torch.Tensor] | None = None,
    mute: str = "",
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Velocities and frames of two chunks in fp32, and the masks: chosen, or the given ones.

    `mute` names a layer of every block that gives nothing.
    """
    height, width, channels = size
    system, given, used = _system(channels).to(device, dtype), iter(masks or []), []
    for name, parameter in system.dit.blocks.named_parameters():
        if mute and f".{mute}." in name:
            parameter.zero_()
    velocities, frames, state = [], [], None
    for block in system.dit.blocks:
        block.self_attn.impl = "auto" if fast else "dense"
        block.self_attn.selection.register_forward_hook(
            lambda module, args, out: used.append(next(given).to(device) if masks else out) or used[-1]
        )
    system.dit.register_forward_hook(lambda module, args, out: velocities.append(out[0].float().cpu()))
    with torch.inference_mode() if fast else torch.enable_grad():  # gradients switch the fast paths off
        for lr, noise in _chunks(height, width):
            out, state = system.step(lr, noise, state)
            frames.append(out.float().cpu())
    return torch.cat(velocities, 2), torch.cat(frames, 2), used


def _error(x: torch.Tensor, exact: torch.Tensor) -> float:
    return float((x - exact).norm() / exact.norm())


def _first_kept_block_dropped(mask: torch.Tensor) -> torch.Tensor:
    first = mask & (mask.cumsum(-1) == 1)
    return mask & ~first


@pytest.mark.parametrize("device", DEVICES)
def test_fast_paths_err_no_more_than_plain_bf16_and_wrong_masks_err_more(device):
    size = SIZES[device]
    *plain, masks = _run(device, torch.bfloat16, fast=False, size=size)
    exact = _run("cpu", torch.float32, fast=False, size=size, masks=masks)
    density = torch.cat([mask.flatten() for mask in masks]).float().mean()
    assert 0.05 < density < 0.8
    run = partial(_run, device, torch.bfloat16, fast=True, size=size)
    fast = run(masks=masks)
    dropped = run(masks=[_first_kept_block_dropped(mask) for mask in masks])
    dense = run(masks=[torch.ones_like(mask) for mask in masks])
    for what, part in (("velocity", 0), ("frames", 1)):
        reference = _error(plain[part], exact[part])
        assert _error(fast[part], exact[part]) < 1.5 * reference, what
        assert _error(dropped[part], exact[part]) > 3 * reference, what
        assert _error(dense[part], exact[part]) > 3 * reference, what


@pytest.mark.parametrize("layer", ["self_attn.o", "cross_attn.o", "ffn.2"])
def test_every_branch_contributes_to_velocity_and_frames(layer):
    *whole, masks = _run("cpu", torch.float32, fast=True)
    muted = _run("cpu", torch.float32, fast=True, masks=masks, mute=layer)
    assert _error(muted[0], whole[0]) > 0.1
    assert _error(muted[1], whole[1]) > 0.05
