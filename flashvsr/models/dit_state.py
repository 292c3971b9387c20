"""What the video diffusion transformer keeps between two chunks of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flashvsr.attention import KVCache
from flashvsr.models.chunk_graphs import ChunkGraphs


@dataclass
class DiTState:
    """The past of one stream. A state passed to :class:`VideoDiT` is consumed: its buffers are reused by the next one.

    Attributes:
        cache: Keys and values of earlier slots.
        latents_seen: Latent frames so far, which is where RoPE goes on.
        context: Keys and values of the prompt, per block; empty without a prompt.
        graphs: What was recorded of earlier chunks, on a GPU. A copy of the state records anew.
    """

    cache: KVCache
    latents_seen: int
    context: list[tuple[Tensor, Tensor]]
    consumed: bool = False
    graphs: ChunkGraphs = field(default_factory=ChunkGraphs, repr=False)

    def take(self) -> tuple[KVCache, list[tuple[Tensor, Tensor]], ChunkGraphs]:
        """Hand out the cache, the prompt and the graphs, and mark the state as consumed.

        Raises:
            RuntimeError: If the state was consumed before.
        """
        self.check_fresh()
        self.consumed = True
        return self.cache, self.context, self.graphs

    def clone(self) -> DiTState:
        """Return an independent copy, to branch a stream.

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

    def check_fresh(self) -> None:
        """Raise a RuntimeError if the state was consumed."""
        if self.consumed:
            raise RuntimeError("this state was passed to the model before and is consumed; branch with state.clone()")
