"""Keys and values of earlier slots, kept in a preallocated ring per layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashvsr.attention.blocks import BLOCK_SIZE


class KVCache:
    """A ring of `history` slots per layer: keys, values and the block means of the keys.

    Keys are stored after norm and RoPE, so the order of the slots does not matter and nothing is ever shifted or
    joined. The keys and values of the chunk in hand are not in the ring while it attends: they are the transient
    *scratch* slot, whose memory the allocator hands from layer to layer, and :meth:`write` puts them over the oldest
    slot afterwards.

    Storage is token-major, `[layers, B, history*slot_tokens, heads, D]`: the layout a projection produces, so writing
    is one copy.

    Args:
        layers: Attention layers that share the cache.
        history: Slots kept per layer; 0 keeps nothing.
        slot_tokens: Tokens per slot, a multiple of 128.
        heads: Attention heads.
        head_dim: Channels per head.
        batch: Samples.
        dtype: Of keys and values.
        device: Where they live.

    Raises:
        ValueError: If a size is not positive, `history` is negative or `slot_tokens` is not whole blocks.
    """

    def __init__(
        self,
        layers: int,
        history: int,
        slot_tokens: int,
        heads: int,
        head_dim: int,
        *,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if min(layers, history + 1, slot_tokens, heads, head_dim, batch) < 1 or slot_tokens % BLOCK_SIZE:
            raise ValueError(
                "sizes are positive, history at least 0 and slot_tokens a multiple of 128: got "
                f"{layers=}, {history=}, {slot_tokens=}, {heads=}, {head_dim=}, {batch=}"
            )
        self.history, self.slot_tokens = history, slot_tokens
        self.slots_seen = 0
        tokens, blocks = history * slot_tokens, history * slot_tokens // BLOCK_SIZE
        with torch.inference_mode(False):  # a stream begun in inference mode may go on outside of it
            self.keys = torch.empty(layers, batch, tokens, heads, head_dim, dtype=dtype, device=device)
            self.values = torch.empty_like(self.keys)
            self.key_means = torch.empty(layers, batch, blocks, heads, head_dim, dtype=dtype, device=device)

    @property
    def filled(self) -> int:
        """Slots of the ring that hold something."""
        return min(self.slots_seen, self.history)

    @property
    def positions(self) -> list[int]:
        """Which slot of the stream each filled place of the ring holds, counted from 0."""
        first = self.slots_seen - self.filled
        return sorted(range(first, self.slots_seen), key=lambda slot: slot % self.history)

    def read(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """What a layer keeps of the past.

        Args:
            layer: Index of the layer.

        Returns:
            Keys and values `[B, heads, filled*slot_tokens, D]` and block means of the keys `[B, heads, blocks, D]`:
            views into the ring, in the order of :attr:`positions`.
        """
        tokens = self.filled * self.slot_tokens
        blocks = tokens // BLOCK_SIZE
        kept = self.keys[layer, :, :tokens], self.values[layer, :, :tokens], self.key_means[layer, :, :blocks]
        keys, values, means = (x.transpose(1, 2) for x in kept)
        return keys, values, means

    def write(self, layer: int, keys: Tensor, values: Tensor, key_means: Tensor) -> None:
        """Put the slots of a chunk over the oldest ones of a layer; no gradient passes through what is stored.

        Args:
            layer: Index of the layer.
            keys: `[B, heads, n*slot_tokens, D]`; of more than `history` slots the last ones are kept.
            values: As `keys`.
            key_means: `[B, heads, n*slot_tokens/128, D]`.
        """
        chunk_slots = keys.shape[2] // self.slot_tokens
        for slot in range(max(0, chunk_slots - self.history), chunk_slots):
            place = (self.slots_seen + slot) % self.history
            for ring, chunk in ((self.keys, keys), (self.values, values), (self.key_means, key_means)):
                size = ring.shape[2] // self.history
                part = chunk.detach().transpose(1, 2)[:, slot * size : (slot + 1) * size]
                ring[layer, :, place * size : (place + 1) * size] = part

    def advance(self, slots: int) -> None:
        """Count the slots of a chunk as seen, once every layer has written them."""
        self.slots_seen += slots

    def clone(self) -> KVCache:
        """Return an independent copy on the same device."""
        return KVCache.from_state_dict(
            {name: x.clone() if isinstance(x, Tensor) else x for name, x in vars(self).items()}
        )

    def state_dict(self) -> dict[str, Any]:
        """Copy out as integers and CPU tensors: a second cache on the device may not fit."""
        return {name: x.to("cpu", copy=True) if isinstance(x, Tensor) else x for name, x in vars(self).items()}

    @classmethod
    def from_state_dict(cls, saved: dict[str, Any]) -> KVCache:
        """Rebuild a cache from :meth:`state_dict`, whose tensors it takes over.

        Raises:
            ValueError: If the keys are not those that :meth:`state_dict` writes.
        """
        expected = {"history", "slot_tokens", "slots_seen", "keys", "values", "key_means"}
        if saved.keys() != expected:
            raise ValueError(f"a saved cache has {', '.join(sorted(expected))}; got {', '.join(sorted(saved))}")
        cache = cls.__new__(cls)
        vars(cache).update(saved)
        return cache
