"""CUDA graphs of the transformer on steady chunks: where a GPU is done sooner than a host can ask, it is asked once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.attention import KVCache, choose_impl

MOST_TOKENS = 1 << 14
"""Tokens of a chunk up to which graphs are recorded; with more, a GPU takes longer than its host."""

RECORDABLE = ("hopper", "triton")
"""Implementations of block-sparse attention that never wait for the host."""


class ChunkGraphs:
    """The graphs of one stream, one for each place in the ring of its cache that a chunk is written to.

    A place is run as usual when it comes up first, recorded the next time, and replayed from then on: the same kernels
    on the same memory, without the host between them. They share the memory they work in.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._recorded: dict[int, tuple[Any, tuple[Tensor, ...], Tensor]] = {}
        self._pool: Any = None

    def run(self, cache: KVCache, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``function(*inputs)``, which reads `cache` and writes the next slot of it, and allocates nothing it keeps.

        Args:
            cache: Full, and on the device.
            function: The same at every call, for inputs of the same shapes.
            inputs: What changes from chunk to chunk.

        Returns:
            The result, good until the next call.
        """
        place = cache.slots_seen % cache.history
        if place not in self._seen:
            self._seen.add(place)
            return function(*inputs)
        with torch.cuda.device_of(inputs[0]):
            if place not in self._recorded:
                self._recorded[place] = self._record(function, inputs)
            graph, buffers, out = self._recorded[place]
            for buffer, value in zip(buffers, inputs, strict=True):
                buffer.copy_(value)
            graph.replay()
        return out

    def _record(
        self, function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
    ) -> tuple[Any, tuple[Tensor, ...], Tensor]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        buffers = tuple(value.clone() for value in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):  # other threads read video
            out = function(*buffers)
        return graph, buffers, out


def why_not(dit: nn.Module, x: Tensor, cache: KVCache) -> str | None:
    """Why a chunk is run without graphs, in one line; None when they can be recorded.

    Args:
        dit: The transformer.
        x: Tokens of the chunk, `[B, N, dim]`.
        cache: The stream's past.
    """
    blocks: Any = dit.blocks
    attention = blocks[0].self_attn
    if x.device.type != "cuda":
        return "they need a GPU"
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cuda"):
        return "gradients or autocast are on"
    if x.shape[0] * x.shape[1] > MOST_TOKENS:
        return f"{x.shape[0] * x.shape[1]} tokens keep a GPU busy"
    if not cache.history or cache.filled < cache.history:
        return "the stream has just begun"
    if cache.partly_on_host:
        return "some keys and values lie on the host"
    impl = attention.impl
    if impl == "auto":
        impl, _ = choose_impl(x.device, x.dtype, attention.o.in_features // attention.heads, requires_grad=False)
    if impl not in RECORDABLE:
        return f"impl {impl!r} waits for the host"
    if any(module._forward_hooks or module._forward_pre_hooks for module in blocks.modules()):
        return "hooks watch the blocks"
    return None
