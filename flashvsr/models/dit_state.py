"""What the video diffusion transformer keeps between two chunks of a stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flashvsr.attention import KVCache
from flashvsr.models.chunk_graphs import ChunkGraphs
from flashvsr.state import ConsumableState


@dataclass
class DiTState(ConsumableState):
    """The past of one stream of :class:`VideoDiT`, whose buffers the next state reuses.

    Attributes:
        cache: Keys and values of earlier slots.
        latents_seen: Latent frames so far, which is where RoPE goes on.
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
