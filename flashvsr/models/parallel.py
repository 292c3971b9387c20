"""One system on several GPUs: each runs some of the blocks, one after the other, and a chunk moves on from GPU to GPU.

The first GPU has the LR projection, the last one the decoder and the colours. Keys and values stay where their block
is. Nothing is split inside a layer, so frames equal those of one GPU bit for bit. All work is queued without waiting:
while the second GPU computes a chunk, the first one has begun the next.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from flashvsr.attention import KVCache, LocalSparseAttention
from flashvsr.attention.cache import save_caches

if TYPE_CHECKING:
    from flashvsr.models.system import FlashVSR

GROWING = "expandable_segments:True"
"""Setting of PyTorch's allocator."""

PROJECTION_TIME, DECODER_TIME = 1.1, 1.3
"""Time of the first and of the last part for each of their operations, in that of a block: an H200 resizes besides, and
its decoder writes large tensors, whose colours it matches then (8.7 + 2.2 ms, 24.8 + 1.0 ms and 2.67 ms a block)."""

KEPT_BLOCKS = 60
"""Key blocks that a query block keeps on average at a sparse ratio of 1, of 128 tokens each."""


class Stage(NamedTuple):
    """Blocks `first` up to, but not with, `stop`, which lie on one device."""

    first: int
    stop: int
    device: torch.device


class StagedCache:
    """The keys and values of all stages: a :class:`~flashvsr.attention.KVCache` each, that move on together.

    Args:
        parts: One per stage, of the same sizes but for the number of layers.
    """

    def __init__(self, parts: Sequence[KVCache]) -> None:
        self.parts = list(parts)
        first = self.parts[0]
        self.history, self.slot_tokens, self.batch = first.history, first.slot_tokens, first.batch

    @property
    def slots_seen(self) -> int:
        """Slots of the stream so far."""
        return self.parts[0].slots_seen

    @property
    def filled(self) -> int:
        """Slots of the rings that hold something."""
        return self.parts[0].filled

    @property
    def partly_on_host(self) -> bool:
        """Whether keys and values of some layers lie in host memory."""
        return any(part.partly_on_host for part in self.parts)

    def advance(self, slots: int) -> None:
        """As :meth:`~flashvsr.attention.KVCache.advance`."""
        for part in self.parts:
            part.advance(slots)

    def clone(self) -> StagedCache:
        """Return an independent copy on the same devices."""
        return StagedCache([part.clone() for part in self.parts])

    def state_dict(self) -> dict[str, Any]:
        """What one cache of all layers would give."""
        return save_caches(self.parts)


def join_caches(parts: Sequence[KVCache]) -> KVCache | StagedCache:
    """The cache of a stream out of those of its stages."""
    return parts[0] if len(parts) == 1 else StagedCache(parts)


def parts_of_cache(cache: KVCache | StagedCache) -> list[KVCache]:
    """The caches of the stages."""
    return cache.parts if isinstance(cache, StagedCache) else [cache]


def send(x: Tensor, device: torch.device) -> Tensor:
    """Copy to another device; between two GPUs on streams of their own, so that both go on with what they do.

    Args:
        x: Of any shape; on the device already, it is returned itself.
        device: Where to.

    Returns:
        The copy, which what is queued on `device` from now on waits for.
    """
    if x.device == device:
        return x
    if {x.device.type, device.type} != {"cuda"}:
        return x.to(device)
    leaving, arriving = _stream(x.device, "leaving"), _stream(device, "arriving")
    here, there = torch.cuda.current_stream(x.device), torch.cuda.current_stream(device)
    leaving.wait_stream(here)
    with torch.cuda.stream(leaving), torch.cuda.stream(arriving):  # a copy waits for the current streams of both
        copied = x.to(device, non_blocking=True)
    x.record_stream(leaving)
    there.wait_stream(arriving)
    copied.record_stream(there)
    return copied


@cache
def _stream(device: torch.device, purpose: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def keep_pace(queued: list[Any], devices: Sequence[torch.device]) -> list[Any]:
    """Wait until no more chunks are queued than keep all devices busy: each holds memory.

    Args:
        queued: What was returned for the chunk before; empty at the start of a stream.
        devices: In the order in which a chunk passes them.

    Returns:
        What to pass for the next chunk: an event of each chunk that is queued.
    """
    if len(devices) == 1 or devices[-1].type != "cuda":
        return []
    if len(queued) > len(devices):
        queued[0].synchronize()
        queued = queued[1:]
    ended = torch.cuda.Event()
    ended.record(torch.cuda.current_stream(devices[-1]))
    return [*queued, ended]


def spread(system: FlashVSR, devices: Sequence[torch.device], *, edges: Sequence[int] | None = None) -> FlashVSR:
    """Move the parts of a system to several devices, in place.

    Args:
        system: On the first of the devices, or anywhere.
        devices: In the order in which a chunk passes them.
        edges: First block of each device, and the number of blocks; None for :func:`split_blocks` with the times that
            :func:`estimate_times` gives.

    Returns:
        The system.

    Raises:
        ValueError: If `edges` do not fit, or memory segments of GPUs are set to grow: with PyTorch 2.11 a stream on two
            GPUs then ended with an illegal memory access, while without it its frames were right.
    """
    grows = [name for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF") if GROWING in os.environ.get(name, "")]
    if devices[0].type == "cuda" and grows:
        raise ValueError(f"several GPUs need memory segments of fixed size: take {GROWING} out of {grows[0]}")
    dit, count = system.dit, len(system.dit.blocks)
    if edges is None:
        edges = split_blocks(count, *estimate_times(system), len(devices))
    if len(edges) != len(devices) + 1 or list(edges) != sorted(edges) or (edges[0], edges[-1]) != (0, count):
        raise ValueError(f"edges of {len(devices)} devices go from 0 up to {count} blocks, got {list(edges)}")
    system.to(devices[0])
    cuts, last = [], devices[0]
    for device, (first, stop) in zip(devices, pairwise(edges), strict=True):
        if first == stop:
            continue
        cuts.append(first)
        last = device
        for block in dit.blocks[first:stop]:
            block.to(device)
    dit.cuts = tuple(cuts[1:])
    dit.head.to(last)
    system.decoder.to(devices[-1])
    system.color.to(devices[-1])
    if devices[0].type == "cuda":
        torch.cuda.empty_cache()  # of what has moved on
    return system


def split_blocks(blocks: int, before: float, block: float, after: float, stages: int) -> list[int]:
    """Share out blocks so that the slowest stage is as fast as can be.

    Args:
        blocks: How many there are, all alike.
        before: What the first stage does besides, in the unit of `block`.
        block: What a block takes.
        after: What the last stage does besides.
        stages: How many.

    Returns:
        First block of each stage, and `blocks`; a stage may have none.
    """
    besides = [0.0] * stages
    besides[0] += before
    besides[-1] += after
    edges = [0]
    for most in sorted(extra + count * block for extra in set(besides) for count in range(blocks + 1)):
        room = [math.floor((most - extra) / block + 1e-9) for extra in besides]
        if min(room) >= 0 and sum(room) >= blocks:
            for blocks_here in room:
                edges.append(min(blocks, edges[-1] + blocks_here))
            break
    return edges


def estimate_times(system: FlashVSR) -> tuple[float, float, float]:
    """Times of projection, one block, and decoder for one latent frame, in a unit of their own.

    A GPU takes about as long for each operation of attention, products and convolutions, so these are counted, for
    128x128 pixels, and weighted by :data:`PROJECTION_TIME` and :data:`DECODER_TIME`. Nothing is computed: shapes pass
    through the modules on PyTorch's meta device.
    """
    geometry, dit = system.geometry, system.dit
    block, side, latents = dit.blocks[0], geometry.multiple, geometry.first_latents
    lr = torch.empty(1, 3, geometry.first_frames, side, side, device="meta", dtype=system.dtype)
    cells = side // geometry.latent_stride
    noise = torch.empty(1, geometry.latent_channels, latents, cells, cells, device="meta", dtype=system.dtype)
    shown = lr[:, :, : geometry.first_output].to(system.pixel_dtype)
    before, after = (
        _count(module, *inputs) / latents
        for module, inputs in ((system.projection, (lr, None)), (system.decoder, (noise, shown, None)))
    )
    dim, tokens = dit.heads * dit.head_dim, cells * cells // 4
    weights = sum(weight.numel() for weight in block.state_dict().values() if weight.ndim == 2)
    attention = block.self_attn
    keys = KEPT_BLOCKS * 128 * attention.selection.sparse_ratio if isinstance(attention, LocalSparseAttention) else 0
    prompt = 0 if system.prompt is None else system.prompt.shape[1]
    return PROJECTION_TIME * before, tokens * (2 * weights + 4 * dim * (keys + prompt)), DECODER_TIME * after


def _count(module: nn.Module, *inputs: Any) -> float:
    tensors = {name: x.to("meta") for name, x in [*module.named_parameters(), *module.named_buffers()]}
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        functional_call(module, tensors, inputs)
    return float(counter.get_total_flops())
