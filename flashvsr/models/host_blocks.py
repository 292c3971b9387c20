"""Weights that a GPU has no room for: in pinned host memory, brought while earlier blocks run, or for each use."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.kernels.host_layers import STAGED, join_streams, pin

ALIGNMENT = 256
"""Bytes that the start of every tensor is a multiple of, as products on a GPU want it."""


class HostBlocks:
    """Some blocks of a network, evenly spread, whose weights lie in host memory; the others are moved to the device.

    The blocks are used in turn, from the first to the last and then from the first again. There is room for two on the
    device: one is in use while the next one is copied, on a stream of its own on a GPU. Nobody else's memory is
    touched, so results are the same. Parameters and buffers of a block are the host's but within :meth:`lend`.

    Args:
        blocks: All blocks, alike in the shapes and dtypes of their weights, without gradients.
        away: How many of them lie in host memory.
        device: Where they are used.

    Attributes:
        away: As given.
        device: As given.
        block_bytes: What the weights of one block take.

    Raises:
        ValueError: If `away` is not 1 to all blocks, or the blocks are not alike.
    """

    def __init__(self, blocks: Sequence[nn.Module], away: int, device: torch.device) -> None:
        if not 1 <= away <= len(blocks):
            raise ValueError(f"of {len(blocks)} blocks, 1 to {len(blocks)} lie in host memory, got {away}")
        layouts = [[(x.shape, x.stride(), x.dtype) for x in _tensors(block)] for block in blocks]
        if any(layout != layouts[0] for layout in layouts):
            raise ValueError("blocks whose weights differ in shape or dtype cannot take turns in the same memory")
        self.away = away
        self.block_bytes = packed_bytes(blocks[0])
        self._order: dict[int, int] = {}  # which of those in host memory a block is
        self._tensors: list[list[Tensor]] = []
        self._host: list[Tensor] = []
        self._own: list[list[Tensor]] = []  # what the tensors are but within `lend`
        cuda = device.type == "cuda"
        for number, block in enumerate(blocks):
            if (number + 1) * away // len(blocks) == number * away // len(blocks):
                block.to(device)
                continue
            self._order[number] = len(self._host)
            self._tensors.append(_tensors(block))
            packed, own = _move_to_host(block, self.block_bytes, device)
            self._host.append(packed)
            self._own.append(own)
        with torch.inference_mode(False):
            self._places = torch.empty(min(STAGED, away), self.block_bytes, dtype=torch.uint8, device=device)
            self._views = [_views(place, self._tensors[0]) for place in self._places]
        self.device = self._places.device  # with its index
        self._holds: list[int | None] = [None] * len(self._places)
        self._inward: Any = torch.cuda.Stream(device) if cuda else None
        self._arrived: list[Any] = [torch.cuda.Event() if cuda else None for _ in self._places]
        if cuda:
            weakref.finalize(self, join_streams, device, [self._inward]).atexit = False

    @contextmanager
    def lend(self, block: int) -> Iterator[None]:
        """Have the weights of a block on the device meanwhile, and begin to bring those of the next.

        Args:
            block: Its index among all blocks.
        """
        index = self._order.get(block)
        if index is None:
            yield
            return
        place = self._holds.index(index) if index in self._holds else self._bring(index, 0)
        if self._inward is not None:
            torch.cuda.current_stream(self.device).wait_event(self._arrived[place])
        following = (index + 1) % self.away
        if following not in self._holds:
            self._bring(following, 1 - place)
        try:
            _set(self._tensors[index], self._views[place])
            yield
        finally:
            _set(self._tensors[index], self._own[index])

    def _bring(self, index: int, place: int) -> int:
        """Start to copy weights to a place on the device, once what is there is used; return the place."""
        if self._inward is not None:
            self._inward.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._inward) if self._inward is not None else nullcontext():
            self._places[place].copy_(self._host[index], non_blocking=True)
        if self._inward is not None:
            self._arrived[place].record(self._inward)
        self._holds[place] = index
        return place


class HostModule:
    """A module whose weights lie in host memory, and take room on the device only while they are used.

    Args:
        module: Without gradients.
        device: Where it is used.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.device = device
        self._tensors = _tensors(module)
        self._host, self._own = _move_to_host(module, packed_bytes(module), device)

    @contextmanager
    def lend(self) -> Iterator[None]:
        """Have the weights on the device meanwhile."""
        with torch.inference_mode(False):
            place = torch.empty_like(self._host, device=self.device).copy_(self._host, non_blocking=True)
            views = _views(place, self._own)
        try:
            _set(self._tensors, views)
            yield
        finally:
            _set(self._tensors, self._own)


def packed_bytes(block: nn.Module) -> int:
    """What the weights of a block take, each at a multiple of :data:`ALIGNMENT`."""
    return sum(_rounded(tensor) for tensor in _tensors(block))


def _tensors(block: nn.Module) -> list[Tensor]:
    return [*block.parameters(), *block.buffers()]


def _rounded(tensor: Tensor) -> int:
    return -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def _move_to_host(block: nn.Module, size: int, device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Put the weights of a block side by side in host memory, where they stay; return that memory, and them in it."""
    with torch.inference_mode(False), torch.no_grad():
        packed = torch.empty(size, dtype=torch.uint8)
        if device.type == "cuda":
            pin(packed, device, "weights")
        tensors = _tensors(block)
        views = _views(packed, tensors)
        for view, tensor in zip(views, tensors, strict=True):
            view.copy_(tensor)
        _set(tensors, views)
    return packed, views


def _views(packed: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the same shapes, strides and dtypes, side by side in some memory."""
    views, start = [], 0
    for tensor in tensors:
        part = packed[start : start + tensor.nbytes].view(tensor.dtype)
        views.append(part.as_strided(tensor.shape, tensor.stride(), part.storage_offset()))
        start += _rounded(tensor)
    return views


def _set(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.data = value
