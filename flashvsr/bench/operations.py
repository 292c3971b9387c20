"""Operations of each part of a system in one steady chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from flashvsr.models.decoder_system import DecoderSystem
from flashvsr.models.dit_blocks import FeedForward
from flashvsr.models.fp8 import Fp8Linear
from flashvsr.models.system import FlashVSR
from flashvsr.streaming import Stream

PARTS = ("projection", "dit", "decoder", "color")
"""Submodules that are timed on their own, where a system has them; the rest is resizing, padding and noise."""

TOKENS_PER_BLOCK = 128


def _fused_conv_flops(x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return conv_flop_count(list(x), list(weight), list(out_shape))


FUSED_CONVOLUTIONS = {
    torch.ops.aten.cudnn_convolution_relu: _fused_conv_flops,
    torch.ops.aten.cudnn_convolution_add_relu: _fused_conv_flops,
}
"""What torch's counter does not know: shapes to operations."""


def parts_of(system: FlashVSR | DecoderSystem) -> list[str]:
    """Those of :data:`PARTS` that a system has."""
    return [name for name in PARTS if hasattr(system, name)]


def count_operations(system: FlashVSR | DecoderSystem, stream: Stream, frames: Tensor) -> dict[str, float]:
    """Count, part by part, while a stream takes one more chunk: products, convolutions, and attention as it is kept.

    The transformer is counted layer by layer: a counter of operators sees no Triton kernel and takes no FlexAttention.
    """
    names = parts_of(system)
    flops: dict[str, float] = dict.fromkeys(names, 0.0)
    counters = {
        name: FlopCounterMode(display=False, custom_mapping=FUSED_CONVOLUTIONS) for name in names if name != "dit"
    }
    handles: list[Any] = []
    kept: list[Tensor] = []

    def count_linear(layer: Any, args: Any, out: Tensor) -> None:
        flops["dit"] += 2 * out.numel() * layer.in_features

    def count_feed_forward(layer: Any, args: Any, out: Tensor) -> None:
        flops["dit"] += 4 * out.numel() * layer[0].out_features

    def count_cross_attention(layer: Any, args: Any, out: Tensor) -> None:
        flops["dit"] += 4 * out.numel() * args[1][0].shape[1]  # [B, N, dim] against L prompt tokens

    def count_kept(layer: Any, args: Any, out: Tensor) -> None:
        kept.append(out.sum())  # stays on the device until the chunk is done

    def stop(name: str) -> None:
        counters[name].__exit__(None, None, None)
        flops[name] += counters[name].get_total_flops()  # each call counts anew

    for name, counter in counters.items():
        module: nn.Module = getattr(system, name)
        handles += [
            module.register_forward_pre_hook(lambda *_, counter=counter: counter.__enter__() and None),
            module.register_forward_hook(lambda *_, name=name: stop(name)),
        ]
    if isinstance(system, FlashVSR):
        feed_forward = [layer for layer in system.dit.modules() if isinstance(layer, FeedForward)]
        inside = {id(layer) for pair in feed_forward for layer in pair}  # their products may run without a call of them
        kinds = (nn.Linear, Fp8Linear)
        linear = [layer for layer in system.dit.modules() if isinstance(layer, kinds) and id(layer) not in inside]
        handles += [layer.register_forward_hook(count_feed_forward) for layer in feed_forward]
        handles += [layer.register_forward_hook(count_linear) for layer in linear]
        for block in system.dit.blocks:
            if hasattr(block.self_attn, "selection"):  # of other attention only the layers within are counted
                handles.append(block.self_attn.selection.register_forward_hook(count_kept))
            if system.dit.has_prompt:
                handles.append(block.cross_attn.register_forward_hook(count_cross_attention))
    stream.push(frames)
    for handle in handles:
        handle.remove()
    if isinstance(system, FlashVSR):
        flops["dit"] += sum(int(pairs) for pairs in kept) * 4 * system.dit.head_dim * TOKENS_PER_BLOCK**2
    return flops
