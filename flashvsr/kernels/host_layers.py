"""Keys and values of layers that a GPU has no room for: in pinned host memory, fetched while other layers run."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

STAGED = 2
"""Layers on the device at a time: the one in use and the next one, on its way."""


class HostLayers:
    """Rings of some layers, in host memory, which are read in turn, from the first to the last, once per chunk.

    On a GPU copies run on streams of their own, in both directions at once; elsewhere they are plain copies.

    Args:
        layers: How many.
        shape: Of the keys of one layer, `[B, tokens, heads, D]`.
        dtype: Of keys and values.
        device: Where they are used.
    """

    def __init__(self, layers: int, shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> None:
        cuda = device.type == "cuda"
        self.pairs = torch.empty(layers, 2, *shape, dtype=dtype, device="cpu")
        if cuda:
            _pin(self.pairs, device)
        self._staged = torch.empty(STAGED, 2, *shape, dtype=dtype, device=device)
        self._fetched: int | None = None  # the layer that was asked for last
        self._inward: Any = torch.cuda.Stream(device) if cuda else None
        self._outward: Any = torch.cuda.Stream(device) if cuda else None
        if self._inward is not None:
            self._staged.record_stream(self._inward)  # freed memory is not reused before a copy on its way has ended
        self._arrived: list[Any] = [torch.cuda.Event() if cuda else None for _ in range(STAGED)]
        self._written: list[Any] = [torch.cuda.Event() if cuda else None for _ in range(layers)]

    def fetch(self, index: int, tokens: int) -> None:
        """Start to bring the first `tokens` tokens of a layer to the device, once those of the one before are used."""
        self._fetched = index
        if tokens == 0:
            return
        if self._inward is not None:
            self._inward.wait_stream(torch.cuda.current_stream(self._staged.device))
            self._inward.wait_event(self._written[index])
        slot = index % STAGED
        with torch.cuda.stream(self._inward) if self._inward is not None else nullcontext():
            for ring, staged in zip(self.pairs[index], self._staged[slot], strict=True):
                staged[:, :tokens].copy_(ring[:, :tokens], non_blocking=True)
        if self._inward is not None:
            self._arrived[slot].record(self._inward)

    def read(self, index: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, tokens, heads, D]` on the device, good until the next layer but one is fetched."""
        if self._fetched != index:
            self.fetch(index, tokens)
        slot = index % STAGED
        if self._inward is not None and tokens:
            torch.cuda.current_stream(self._staged.device).wait_event(self._arrived[slot])
        if index + 1 < len(self.pairs):
            self.fetch(index + 1, tokens)
        keys, values = self._staged[slot, :, :, :tokens]
        return keys, values

    def write(self, index: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Put `[B, n, heads, D]` over the tokens of a layer from `start` on."""
        if self._outward is not None:
            self._outward.wait_stream(torch.cuda.current_stream(self._staged.device))
        with torch.cuda.stream(self._outward) if self._outward is not None else nullcontext():
            for ring, part in zip(self.pairs[index], (keys, values), strict=True):
                ring[:, start : start + part.shape[1]].copy_(part, non_blocking=True)
                if self._outward is not None:
                    part.record_stream(self._outward)
        if self._outward is not None:
            self._written[index].record(self._outward)

    def settle(self) -> None:
        """Wait until host memory holds everything that was written."""
        if self._outward is not None:
            self._outward.synchronize()

    def clone(self, tokens: int) -> HostLayers:
        """An independent copy between two chunks, of which the next reads `tokens` tokens."""
        self.settle()
        shape, device = tuple(self.pairs.shape[2:]), self._staged.device
        other = HostLayers(len(self.pairs), shape, dtype=self.pairs.dtype, device=device)
        other.pairs.copy_(self.pairs)
        other.fetch(0, tokens)
        return other


def _pin(x: Tensor, device: torch.device) -> None:
    """Lock the memory of a tensor on the host, as long as it lives, so that copies run beside everything else.

    PyTorch's own pinned memory is rounded up to a power of two, and touched by one thread, which takes longer than all
    the rest of starting a stream. Here all threads touch it first.

    Raises:
        RuntimeError: If the system refuses, for want of memory or by a limit.
    """
    x.zero_()
    runtime: Any = torch.cuda.cudart()
    with torch.cuda.device(device):
        status = runtime.cudaHostRegister(x.data_ptr(), x.nbytes, 0)
    if int(status) != 0:
        raise RuntimeError(
            f"{x.nbytes / 2**30:.1f} GiB of host memory for keys and values could not be locked: {status}; free some, "
            "or keep more of them on the GPU (--cache-gib)"
        )
    weakref.finalize(x.untyped_storage(), _unpin, x.data_ptr(), device).atexit = False


def _unpin(address: int, device: torch.device) -> None:
    torch.cuda.synchronize(device)  # a copy may be on its way
    runtime: Any = torch.cuda.cudart()
    runtime.cudaHostUnregister(address)
