"""Keys and values of earlier slots, kept in a preallocated ring per layer."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flashvsr.attention.blocks import BLOCK_SIZE
from flashvsr.kernels.host_layers import STAGED, HostLayers


class KVCache:
    """A ring of `history` slots per layer: keys, values and the block means of the keys.

    Keys are stored after norm and RoPE, so the order of the slots does not matter and nothing is ever shifted or
    joined. The keys and values of the chunk in hand are not in the ring while it attends: they are the transient
    *scratch* slot, whose memory the allocator hands from layer to layer, and :meth:`write` puts them over the oldest
    slot afterwards.

    A stream calls, chunk after chunk, every layer once and then :meth:`advance`. A layer takes the slots of a chunk as
    it would see them in the whole sequence, so that a chunk may hold any number of slots; only the first slots, which
    see one another, have to come together (see :class:`~flashvsr.attention.LocalSparseAttention`).

    Storage is token-major, `[layers, B, history*slot_tokens, heads, D]`: the layout a projection produces, so writing
    is one copy. With `device_gib` the keys and values of some layers, evenly spread, lie in host memory and are
    fetched one such layer ahead, see :class:`~flashvsr.kernels.host_layers.HostLayers`; results are the same. Between
    two chunks they take no memory on the device.

    Args:
        layers: Attention layers that share the cache.
        history: Slots kept per layer; 0 keeps nothing.
        slot_tokens: Tokens per slot, a multiple of 128.
        heads: Attention heads.
        head_dim: Channels per head.
        batch: Samples.
        dtype: Of keys and values.
        device: Where they live.
        device_gib: Memory for keys and values on the device; layers beyond it lie in host memory. None for all on the
            device.
        spare: Host memory that an earlier cache left and this one leaves, see
            :class:`~flashvsr.kernels.host_layers.HostLayers`.

    Raises:
        ValueError: If a size is not positive, `history` is negative, `slot_tokens` is not whole blocks, or
            `device_gib` is less than two layers take, the least that works.
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
        device_gib: float | None = None,
        spare: list[Tensor] | None = None,
    ) -> None:
        if min(layers, history + 1, slot_tokens, heads, head_dim, batch) < 1 or slot_tokens % BLOCK_SIZE:
            raise ValueError(
                "sizes are positive, history at least 0 and slot_tokens a multiple of 128: got "
                f"{layers=}, {history=}, {slot_tokens=}, {heads=}, {head_dim=}, {batch=}"
            )
        self.history, self.slot_tokens = history, slot_tokens
        self.slots_seen = 0
        self.batch, self.layers, self.heads, self.head_dim = batch, layers, heads, head_dim
        self._written: dict[int, int] = {}  # slots that a layer has written since the last advance
        tokens, blocks = history * slot_tokens, history * slot_tokens // BLOCK_SIZE
        shape = (batch, tokens, heads, head_dim)
        self._away = _layers_away(layers, 2 * math.prod(shape) * dtype.itemsize, device_gib)
        with torch.inference_mode(False):  # a stream begun in inference mode may go on outside of it
            self.keys = torch.empty(layers - self._away, *shape, dtype=dtype, device=device)
            self.values = torch.empty_like(self.keys)
            self.key_means = torch.empty(layers, batch, blocks, heads, head_dim, dtype=dtype, device=device)
            where: Any = {"dtype": dtype, "device": self.keys.device, "spare": spare}
            self._host = HostLayers(self._away, shape, **where) if self._away else None

    @property
    def filled(self) -> int:
        """Slots of the ring that hold something."""
        return min(self.slots_seen, self.history)

    @property
    def partly_on_host(self) -> bool:
        """Whether keys and values of some layers lie in host memory."""
        return self._host is not None

    @property
    def positions(self) -> list[int]:
        """Which slot of the stream each filled place of the ring holds, counted from 0."""
        first = self.slots_seen - self.filled
        return sorted(range(first, self.slots_seen), key=lambda slot: slot % self.history)

    def read(self, layer: int, *, ahead: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """What a layer keeps of the past.

        Args:
            layer: Index of the layer.
            ahead: Slots of the chunk in hand that the layer has written already.

        Returns:
            Keys and values `[B, heads, filled*slot_tokens, D]` and block means of the keys `[B, heads, blocks, D]`:
            views into the ring, in the order of :attr:`positions`.
        """
        tokens = min(self.slots_seen + ahead, self.history) * self.slot_tokens
        blocks = tokens // BLOCK_SIZE
        host, index = self._place(layer)
        if self._host is not None:
            self._host.begin(tokens)
        kept = (x[index, :, :tokens] for x in (self.keys, self.values)) if host is None else host.read(index, tokens)
        keys, values, means = (x.transpose(1, 2) for x in (*kept, self.key_means[layer, :, :blocks]))
        return keys, values, means

    def write(self, layer: int, keys: Tensor, values: Tensor, key_means: Tensor, *, ahead: int = 0) -> None:
        """Put the slots of a chunk over the oldest ones of a layer; no gradient passes through what is stored.

        Args:
            layer: Index of the layer.
            keys: `[B, heads, n*slot_tokens, D]`; of more than `history` slots the last ones are kept.
            values: As `keys`.
            key_means: `[B, heads, n*slot_tokens/128, D]`.
            ahead: Slots of the chunk in hand that the layer has written already.

        Raises:
            RuntimeError: If `ahead` is not what the layer has written since the last :meth:`advance`.
        """
        if self._written.get(layer, 0) != ahead:
            raise RuntimeError(
                f"layer {layer} has written {self._written.get(layer, 0)} slots of this chunk, not {ahead}: call "
                "advance(slots) once every layer has seen a chunk"
            )
        size, blocks = self.slot_tokens, self.slot_tokens // BLOCK_SIZE
        host, index = self._place(layer)
        chunk_slots = keys.shape[2] // size
        self._written[layer] = ahead + chunk_slots
        for slot in range(max(0, chunk_slots - self.history), chunk_slots):
            place = (self.slots_seen + ahead + slot) % self.history
            key, value = (x.detach().transpose(1, 2)[:, slot * size : (slot + 1) * size] for x in (keys, values))
            if host is None:
                self.keys[index, :, place * size : (place + 1) * size] = key
                self.values[index, :, place * size : (place + 1) * size] = value
            else:
                host.write(index, place * size, key, value)
            means = key_means.detach().transpose(1, 2)[:, slot * blocks : (slot + 1) * blocks]
            self.key_means[layer, :, place * blocks : (place + 1) * blocks] = means

    def advance(self, slots: int) -> None:
        """Count the slots of a chunk as seen, once every layer has written them.

        Raises:
            ValueError: If `slots` is negative, or a layer has written another number.
        """
        wrong = sorted({written for written in self._written.values() if written != slots})
        if slots < 0 or wrong:
            wrote = f", of a chunk of which layers wrote {wrong}" if wrong else ""
            raise ValueError(f"advance takes the slots of the chunk that all layers have seen, got {slots}{wrote}")
        self._written.clear()
        self.slots_seen += slots
        if self._host is not None:
            self._host.rest()

    def clone(self) -> KVCache:
        """Return an independent copy on the same device."""
        other = copy.copy(self)
        other._written = dict(self._written)
        other.keys, other.values, other.key_means = (x.clone() for x in (self.keys, self.values, self.key_means))
        other._host = None if self._host is None else self._host.clone()
        return other

    def state_dict(self) -> dict[str, Any]:
        """Copy out as integers and CPU tensors: a second cache on the device may not fit."""
        return save_caches([self])

    @classmethod
    def from_state_dict(
        cls, saved: dict[str, Any], *, device: torch.device | str = "cpu", device_gib: float | None = None
    ) -> KVCache:
        """Rebuild a cache from :meth:`state_dict`, which is copied.

        Args:
            saved: The integers and tensors.
            device: Where the cache lives.
            device_gib: As for the class; another than the saved cache had is fine.

        Raises:
            ValueError: If the keys are not those that :meth:`state_dict` writes.
        """
        expected = {"history", "slot_tokens", "slots_seen", "keys", "values", "key_means"}
        if saved.keys() != expected:
            raise ValueError(f"a saved cache has {', '.join(sorted(expected))}; got {', '.join(sorted(saved))}")
        layers, batch, _, heads, head_dim = saved["keys"].shape
        sizes = (layers, saved["history"], saved["slot_tokens"], heads, head_dim)
        dtype = saved["keys"].dtype
        cache = cls(*sizes, batch=batch, dtype=dtype, device=device, device_gib=device_gib)
        for layer in range(layers):
            for ring, name in zip(cache._stored(layer), ("keys", "values"), strict=True):
                ring.copy_(saved[name][layer])
        cache.key_means.copy_(saved["key_means"])
        cache.advance(saved["slots_seen"])
        return cache

    def _place(self, layer: int) -> tuple[HostLayers | None, int]:
        """Where a layer is stored, None for the device, and its index there."""
        before = layer * self._away // self.layers
        if (layer + 1) * self._away // self.layers > before:
            return self._host, before
        return None, layer - before

    def _stored(self, layer: int) -> tuple[Tensor, Tensor]:
        """Ring of the keys and of the values of a layer `[B, tokens, heads, D]`, on the device or on the host."""
        host, index = self._place(layer)
        return (self.keys[index], self.values[index]) if host is None else (host.pairs[index, 0], host.pairs[index, 1])


def save_caches(caches: Sequence[KVCache]) -> dict[str, Any]:
    """What one cache with the layers of all would give as its :meth:`KVCache.state_dict`.

    Args:
        caches: Of the same sizes but for the number of layers, and as far in the same stream.
    """
    first, layers = caches[0], sum(cache.layers for cache in caches)
    with torch.inference_mode(False):
        pairs = torch.empty(2, layers, *first.keys.shape[1:], dtype=first.keys.dtype)
    places = iter(pairs.unbind(1))
    for cache in caches:
        if cache._host is not None:
            cache._host.settle()
        for layer in range(cache.layers):
            for ring, copied in zip(cache._stored(layer), next(places), strict=True):
                copied.copy_(ring)
    return {
        "history": first.history,
        "slot_tokens": first.slot_tokens,
        "slots_seen": first.slots_seen,
        "keys": pairs[0],
        "values": pairs[1],
        "key_means": torch.cat([cache.key_means.to("cpu", copy=True) for cache in caches]),
    }


def _layers_away(layers: int, layer_bytes: int, device_gib: float | None) -> int:
    """How many layers lie in host memory so that the others, and those on their way, fit on the device."""
    if device_gib is None or layers * layer_bytes <= device_gib * 2**30:
        return 0
    fit = int(device_gib * 2**30 // layer_bytes) - STAGED
    if fit < 0:
        least = STAGED * layer_bytes / 2**30
        raise ValueError(f"keys and values of two layers take {least:.2f} GiB on the device, got only {device_gib} GiB")
    return layers - fit
