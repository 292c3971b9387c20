"""What the video diffusion transformer keeps between two chunks of a stream: keys and values, and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.attention import KVCache, LocalSparseAttention, choose_impl
from flashvsr.state import ConsumableState

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
        """Run ``function(*inputs)``, which reads `cache`, writes its next slot, and keeps no memory that it allocates.

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


def why_no_graphs(dit: nn.Module, x: Tensor, cache: KVCache) -> str | None:
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
    if not isinstance(attention, LocalSparseAttention):
        return f"{type(attention).__name__} may wait for the host"
    impl = attention.impl
    if impl == "auto":
        impl, _ = choose_impl(x.device, x.dtype, attention.o.in_features // attention.heads, requires_grad=False)
    if impl not in RECORDABLE:
        return f"impl {impl!r} waits for the host"
    if any(module._forward_hooks or module._forward_pre_hooks for module in blocks.modules()):
        return "hooks watch the blocks"
    return None


@dataclass
class DiTState(ConsumableState):
    """The past of one stream of :class:`VideoDiT`, whose buffers the next state reuses.

    Attributes:
        cache: Keys and values of earlier slots.
        latents_seen: Latent frames so far: RoPE continues from there.
        context: Keys and values of the prompt, per block; empty without a prompt.
        graphs: What was recorded of earlier chunks, on a GPU. A copy of the state records anew.
    """

    cache: KVCache
    latents_seen: int
    context: list[tuple[Tensor, Tensor]]
    graphs: ChunkGraphs = field(default_factory=ChunkGraphs, repr=False)

    def clone(self) -> DiTState:
        """Return an independent copy, to branch a stream; the keys and values of the prompt, which stay, are shared.

        Raises:
            RuntimeError: If the state was consumed before: its cache has moved on.
        """
        self.check_fresh()
        return DiTState(self.cache.clone(), self.latents_seen, self.context)

    def state_dict(self) -> dict[str, Any]:
        """Copy out as nested dicts and lists of CPU tensors and integers.

        Raises:
            RuntimeError: If the state was consumed before: its cache has moved on.
        """
        self.check_fresh()
        context = [[x.to("cpu", copy=True) for x in pair] for pair in self.context]
        return {"cache": self.cache.state_dict(), "latents_seen": self.latents_seen, "context": context}

    @classmethod
    def from_state_dict(
        cls, saved: dict[str, Any], *, device: torch.device | str = "cpu", cache_gib: float | None = None
    ) -> DiTState:
        """Rebuild a state from a copy of :meth:`state_dict`.

        Args:
            saved: The nested dicts and lists.
            device: Where it lives.
            cache_gib: See :class:`~flashvsr.models.VideoDiT`.
        """
        context = [(key.to(device, copy=True), value.to(device, copy=True)) for key, value in saved["context"]]
        cache = KVCache.from_state_dict(saved["cache"], device=device, device_gib=cache_gib)
        return cls(cache, saved["latents_seen"], context)
