"""Keys and values of layers that a GPU has no room for: in pinned host memory, fetched while other layers run."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

STAGED = 2
"""Layers on the device at a time: the one in use and the next one, on its way."""


class HostLayers:
    """Rings of some layers, in host memory, which are read in turn, from the first to the last, once per chunk.

    On a GPU copies run on streams of their own, in both directions at once; elsewhere they are plain copies. What they
    read and write on the device is kept until the stream of the layers waits for them, so that it can be used again at
    once: the host queues work long before the GPU does it, and would otherwise take new memory for every layer.

    Args:
        layers: How many.
        shape: Of the keys of one layer, `[B, tokens, heads, D]`.
        dtype: Of keys and values.
        device: Where they are used.
        spare: Memory of an earlier object that is taken if it fits, and where this one leaves its own: to lock memory
            takes seconds. None for none.
    """

    def __init__(
        self,
        layers: int,
        shape: tuple[int, ...],
        *,
        dtype: torch.dtype,
        device: torch.device,
        spare: list[Tensor] | None = None,
    ) -> None:
        cuda = device.type == "cuda"
        self.device, self._spare = device, spare
        self.pairs = _take_spare(spare, (layers, 2, *shape), dtype, device)
        self._staged: Tensor | None = None  # the layer in use and the next one, while a chunk is on its way
        self._fetched: tuple[int, int] | None = None  # the layer that was asked for last, and how many of its tokens
        self._leaving: list[Tensor] = []  # keys and values that are on their way to the host, all of one layer
        self._left: int | None = None  # that layer
        self._inward: Any = torch.cuda.Stream(device) if cuda else None
        self._outward: Any = torch.cuda.Stream(device) if cuda else None
        self._arrived: list[Any] = [torch.cuda.Event() if cuda else None for _ in range(STAGED)]
        self._written: list[Any] = [torch.cuda.Event() if cuda else None for _ in range(layers)]
        if spare is not None:
            weakref.finalize(self, spare.append, self.pairs).atexit = False
        if cuda:  # memory on the device that is freed with this object is not reused before its copies have ended
            weakref.finalize(self, join_streams, device, (self._inward, self._outward)).atexit = False

    def fetch(self, index: int, tokens: int) -> None:
        """Start to bring the first `tokens` tokens of a layer to the device, once those of the one before are used."""
        self._fetched = index, tokens
        if tokens == 0:
            return
        if self._staged is None:
            with torch.inference_mode(False):
                self._staged = torch.empty(STAGED, *self.pairs.shape[1:], dtype=self.pairs.dtype, device=self.device)
        if self._inward is not None:
            self._inward.wait_stream(torch.cuda.current_stream(self.device))
            self._inward.wait_event(self._written[index])
        slot = index % STAGED
        with torch.cuda.stream(self._inward) if self._inward is not None else nullcontext():
            for ring, staged in zip(self.pairs[index], self._staged[slot], strict=True):
                staged[:, :tokens].copy_(ring[:, :tokens], non_blocking=True)
        if self._inward is not None:
            self._arrived[slot].record(self._inward)

    def begin(self, tokens: int) -> None:
        """Start to bring the first layer, unless one is there or on its way."""
        if self._fetched is None:
            self.fetch(0, tokens)

    def read(self, index: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, tokens, heads, D]` on the device, good until the next layer but one is fetched."""
        if self._fetched != (index, tokens):
            self.fetch(index, tokens)
        if self._staged is None:  # nothing is kept yet
            keys, values = self.pairs.new_empty(2, self.pairs.shape[2], 0, *self.pairs.shape[4:], device=self.device)
            return keys, values
        slot = index % STAGED
        if self._inward is not None and tokens:
            torch.cuda.current_stream(self.device).wait_event(self._arrived[slot])
        if index + 1 < len(self.pairs):
            self.fetch(index + 1, tokens)
        keys, values = self._staged[slot, :, :, :tokens]
        return keys, values

    def write(self, index: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Put `[B, n, heads, D]` over the tokens of a layer from `start` on."""
        if index != self._left:
            self._let_go()
        if self._outward is not None:
            self._outward.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._outward) if self._outward is not None else nullcontext():
            for ring, part in zip(self.pairs[index], (keys, values), strict=True):
                ring[:, start : start + part.shape[1]].copy_(part, non_blocking=True)
        if self._outward is not None:
            self._written[index].record(self._outward)
            self._left = index
            self._leaving += [keys, values]
        if self._fetched is not None and self._fetched[0] == index:
            self._fetched = None  # what is on the device is no longer what is kept

    def rest(self) -> None:
        """Free what is on the device, between two chunks: other parts of a system have use for it."""
        self._let_go()
        if self._inward is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._inward)
        self._staged = self._fetched = None

    def settle(self) -> None:
        """Wait until host memory holds everything that was written."""
        if self._outward is not None:
            self._outward.synchronize()

    def clone(self) -> HostLayers:
        """An independent copy, between two chunks."""
        self.settle()
        sizes = len(self.pairs), tuple(self.pairs.shape[2:])
        other = HostLayers(*sizes, dtype=self.pairs.dtype, device=self.device, spare=self._spare)
        other.pairs.copy_(self.pairs)
        return other

    def _let_go(self) -> None:
        """Free what was on its way to the host, which the stream of the layers then waits for."""
        if self._left is not None:
            torch.cuda.current_stream(self.device).wait_event(self._written[self._left])
        self._leaving.clear()
        self._left = None


def _take_spare(spare: list[Tensor] | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory of that shape: what is left over, or new, which on a GPU's behalf is locked."""
    cuda = device.type == "cuda"
    left = spare.pop() if spare else None
    if spare:
        spare.clear()
    if left is not None and (left.shape, left.dtype) == (shape, dtype) and (not cuda or left.is_pinned()):
        if cuda:
            torch.cuda.synchronize(device)  # copies to it may be on their way
        return left
    pairs = torch.empty(shape, dtype=dtype, device="cpu")
    if cuda:
        pin(pairs, device, "keys and values")
    return pairs


def join_streams(device: torch.device, streams: Sequence[Any]) -> None:
    """Let what is queued on a device from now on wait for other streams."""
    for stream in streams:
        torch.cuda.current_stream(device).wait_stream(stream)


def pin(x: Tensor, device: torch.device, what: str) -> None:
    """Lock the memory of a tensor on the host, as long as it lives, so that copies run beside everything else.

    PyTorch's own pinned memory is rounded up to a power of two, and touched by one thread, which takes longer than all
    the rest of starting a stream. Here all threads touch it first.

    Args:
        x: Contiguous, on the CPU; zeroed.
        device: The GPU that copies to it or from it.
        what: What it is for, in words.

    Raises:
        RuntimeError: If the system refuses, for want of memory or by a limit.
    """
    x.zero_()
    runtime: Any = torch.cuda.cudart()
    with torch.cuda.device(device):
        status = runtime.cudaHostRegister(x.data_ptr(), x.nbytes, 0)
    if int(status) != 0:
        raise RuntimeError(
            f"{x.nbytes / 2**30:.1f} GiB of host memory for {what} could not be locked: {status}; free some, or give "
            "the GPU more (--gpu-gib, --cache-gib)"
        )
    weakref.finalize(x.untyped_storage(), _unpin, x.data_ptr(), device).atexit = False


def _unpin(address: int, device: torch.device) -> None:
    torch.cuda.synchronize(device)  # a copy may be on its way
    runtime: Any = torch.cuda.cudart()
    runtime.cudaHostUnregister(address)
