"""What the video diffusion transformer keeps between two chunks of a stream: keys and values, and CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.attention import KVCache, LocalSparseAttention, choose_impl
from flashvsr.models.parallel import Stage, StagedCache, join_caches
from flashvsr.state import ConsumableState

MOST_TOKENS = 1 << 14
"""Tokens of a chunk up to which graphs are recorded on one GPU; with more, it takes longer than its host. On several
GPUs they are always recorded: the host queues the work of all, and a full queue of one would keep another waiting."""

RECORDABLE = ("hopper", "triton", "hopper_8bit", "triton_8bit", "triton_int8")
"""Implementations of block-sparse attention that never wait for the host."""


class ChunkGraphs:
    """The graphs of one stage of a stream, one for each place in the ring of its cache that a chunk is written to.

    A place is run as usual when it comes up first, recorded the next time, and replayed from then on: the same kernels
    on the same memory, without the host between them. They share the memory they work in.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._recorded: dict[int, tuple[Any, tuple[Tensor, ...], Tensor]] = {}
        self._pool: Any = None
        self._stream: Any = None

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
            self._stream = torch.cuda.Stream(inputs[0].device)  # else that of the GPU which recorded first
        buffers = tuple(value.clone() for value in inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads read video meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            out = function(*buffers)
        return graph, buffers, out


def why_no_graphs(dit: nn.Module, x: Tensor, cache: KVCache | StagedCache) -> str | None:
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
    if not dit.cuts and x.shape[0] * x.shape[1] > MOST_TOKENS:
        return f"{x.shape[0] * x.shape[1]} tokens keep a GPU busy"
    if not cache.history or cache.filled < cache.history:
        return "the stream has just begun"
    if cache.partly_on_host:
        return "some keys and values lie on the host"
    if dit.host_blocks is not None:
        return "some weights lie on the host"
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
        graphs: What was recorded of earlier chunks, on a GPU, by stage; empty in a copy of the state, which
            records anew.
    """

    cache: KVCache | StagedCache
    latents_seen: int
    context: list[tuple[Tensor, Tensor]]
    graphs: list[ChunkGraphs] = field(default_factory=list, repr=False)

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
        cls,
        saved: dict[str, Any],
        *,
        device: torch.device | str = "cpu",
        cache_gib: float | None = None,
        stages: Sequence[Stage] | None = None,
    ) -> DiTState:
        """Rebuild a state from a copy of :meth:`state_dict`.

        Args:
            saved: The nested dicts and lists.
            device: Where it lives.
            cache_gib: See :class:`~flashvsr.models.VideoDiT`.
            stages: Where it lives instead, of a model on several devices; it need not be saved from such a one.
        """
        rings = saved["cache"]
        stages = stages or [Stage(0, len(rings["keys"]), torch.device(device))]
        caches = []
        for stage in stages:
            own = {name: rings[name][stage.first : stage.stop] for name in ("keys", "values", "key_means")}
            caches.append(KVCache.from_state_dict({**rings, **own}, device=stage.device, device_gib=cache_gib))
        context = [
            (key.to(stage.device, copy=True), value.to(stage.device, copy=True))
            for stage in stages
            for key, value in saved["context"][stage.first : stage.stop]
        ]
        return cls(join_caches(caches), saved["latents_seen"], context)
