"""How much memory of a GPU a stream takes, counted before it starts."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flashvsr.kernels.host_layers import STAGED
from flashvsr.models.dit import VideoDiT
from flashvsr.models.dit_blocks import PIECE_TOKENS
from flashvsr.models.host_blocks import packed_bytes
from flashvsr.models.patches import PATCH

if TYPE_CHECKING:
    from flashvsr.models.decoder_system import DecoderSystem
    from flashvsr.models.system import FlashVSR

GIB = 2**30

ROWS = 7
"""Tensors of a chunk's tokens that are alive within an attention layer: those of the LR frames, of the block and of its
norm, queries, keys, values, and the result."""

CHUNKS = ("first chunk", "steady chunk")

COLOR_FRAMES = 6
"""Frames in fp32 that colour correction makes at a time."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made while it is on, on any device.

    Attributes:
        live: Bytes of those that are alive.
        peak: Most of them so far; may be set.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run, and look at what goes in and what comes out."""
        self._note((args, kwargs), new=False)
        out = function(*args, **(kwargs or {}))
        self._note(out, new=True)
        self.peak = max(self.peak, self.live)
        return out

    def _note(self, tensors: Any, new: bool) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[storage._cdata] = storage.nbytes() if new else 0
                self.live += self._sizes[storage._cdata]
                weakref.finalize(storage, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class Moment(NamedTuple):
    """One part of a system at work.

    Attributes:
        name: Of the part.
        alive: Bytes of tensors, but for weights, keys and values.
        staged: Layers of keys and values on the device besides, if some lie on the host.
        leaving: Bytes of keys and values on their way there, likewise.
        idle: Bytes that are not used meanwhile, weights included, and may rest on the host.
    """

    name: str
    alive: int
    staged: int = 0
    leaving: int = 0
    idle: int = 0


@dataclass(frozen=True)
class MemoryNeeds:
    """What a stream of one frame size takes, in bytes.

    Attributes:
        size: Rows and columns of the padded output.
        fixed: Weights outside the blocks, the prompt in all blocks, block means of keys.
        blocks: Blocks of the transformer.
        block: Weights of one of them.
        layer: Keys and values of one of them.
        moments: What else is alive, part by part.
    """

    size: tuple[int, int]
    fixed: int
    blocks: int
    block: int
    layer: int
    moments: tuple[Moment, ...]

    def peak(self, layers_away: int, blocks_away: int, rests: bool = False) -> int:
        """Most bytes at a time.

        Args:
            layers_away: Layers whose keys and values lie on the host.
            blocks_away: Blocks whose weights do.
            rests: Whether what is idle does.
        """
        weights = (self.blocks - blocks_away + min(STAGED, blocks_away)) * self.block
        besides = max(
            moment.alive
            + (moment.staged * self.layer + moment.leaving if layers_away else 0)
            - (moment.idle if rests else 0)
            for moment in self.moments
        )
        return self.fixed + weights + (self.blocks - layers_away) * self.layer + besides


def estimate_needs(system: FlashVSR, height: int, width: int) -> MemoryNeeds:
    """Count what a stream takes; nothing is computed, shapes pass through on PyTorch's meta device.

    Args:
        system: Anywhere.
        height: Rows of the padded output.
        width: Columns of the padded output.

    Returns:
        The needs of a stream of one sample, whose frames are taken in parts.
    """
    dit, geometry = system.dit, system.geometry
    blocks, dim, size = len(dit.blocks), dit.heads * dit.head_dim, system.dtype.itemsize
    cells = (height // geometry.latent_stride) * (width // geometry.latent_stride) // PATCH**2
    slot_tokens = geometry.next_latents * cells
    prompt = 0 if system.prompt is None else system.prompt.shape[1]
    block = packed_bytes(dit.blocks[0])
    weights = sum(x.nbytes for x in [*system.parameters(), *system.buffers()])
    inside = sum(x.nbytes for part in dit.blocks for x in [*part.parameters(), *part.buffers()])
    means = blocks * dit.history * (slot_tokens // 128) * dim * size
    with torch.inference_mode():
        moments = _moments(system, height, width, slot_tokens)
    return MemoryNeeds(
        size=(height, width),
        fixed=weights - inside + means + blocks * 2 * prompt * dim * size,
        blocks=blocks,
        block=block,
        layer=2 * dit.history * slot_tokens * dim * size,
        moments=tuple(moments),
    )


def _moments(system: FlashVSR, height: int, width: int, slot_tokens: int) -> list[Moment]:
    """The parts of the first chunk and of a steady one, in order, as :meth:`FlashVSR.step` runs them."""
    geometry, history = system.geometry, system.dit.history
    projection, decoder = _meta(system.projection), _meta(system.decoder)
    past_projection = past_decoder = ahead = None
    past_bytes, weights = 0, sum(x.nbytes for x in [*system.projection.parameters(), *system.projection.buffers()])
    frame, moments = 3 * height * width, list[Moment]()
    with torch.device("meta"), LiveBytes() as live:
        for chunk, name in enumerate(CHUNKS):
            latents, shown = len(geometry.latents(chunk)), geometry.output_frames(chunk)
            out = torch.empty(shown * frame, dtype=torch.uint8)
            lr = torch.empty(1, 3, geometry.lr_frames(chunk), height, width, dtype=system.pixel_dtype)
            tokens, past_projection = projection(lr.to(system.dtype), past_projection)
            moments.append(Moment(f"LR projection, {name}", live.peak, idle=past_bytes))
            count, live.peak = tokens.shape[1], 0
            del tokens
            working = transformer_bytes(system.dit, count, (history if chunk else 0) * slot_tokens + count)
            leaving = 2 * count * system.dit.heads * system.dit.head_dim * system.dtype.itemsize
            staged, idle = (STAGED if chunk else 0), weights + past_bytes
            moments.append(Moment(f"transformer, {name}", live.live + working, staged, leaving, idle))
            seen = lr if ahead is None else torch.cat((ahead, lr), 2)
            for frames, taken in system.parts_of_chunk(shown, latents)[: 1 if chunk else 2]:
                z = torch.empty(1, geometry.latent_channels, taken, height // 8, width // 8, dtype=system.dtype)
                before = live.live
                result, past_decoder = decoder(z, seen[:, :, :frames], past_decoder)
                past_bytes = past_bytes or live.live - before - result.nbytes
                moments.append(Moment(f"decoder, {name}", live.peak, idle=weights))
                live.peak = 0
                moments.append(Moment(f"colour, {name}", live.live + COLOR_FRAMES * 4 * frame, idle=weights))
                del result
            ahead = lr[:, :, -geometry.lookahead :].clone()
            del out, lr, seen
    return moments


def estimate_decoder_needs(system: DecoderSystem, height: int, width: int) -> MemoryNeeds:
    """Count what a stream of a decoder alone takes, as :func:`estimate_needs` does; none of it could lie elsewhere.

    Args:
        system: Anywhere.
        height: Rows of the padded output.
        width: Columns of the padded output.

    Returns:
        The needs of a stream of one sample.
    """
    geometry, decoder, past = system.geometry, _meta(system.decoder), None
    frame, moments = 3 * height * width, list[Moment]()
    cells = (height // geometry.latent_stride, width // geometry.latent_stride)
    with torch.inference_mode(), torch.device("meta"), LiveBytes() as live:
        for chunk, name in enumerate(CHUNKS):
            count = geometry.lr_frames(chunk)
            out = torch.empty(count * frame, dtype=torch.uint8)
            lr = torch.empty(1, 3, count, height, width, dtype=system.pixel_dtype)
            latents = torch.empty(1, system.decoder.latent_channels, 1, *cells, dtype=system.dtype)
            frames, past = decoder(latents, lr, past)
            moments.append(Moment(f"decoder, {name}", live.peak))
            live.peak = 0
            moments.append(Moment(f"colour, {name}", live.live + COLOR_FRAMES * 4 * frame))
            del out, lr, latents, frames
    weights = sum(x.nbytes for x in [*system.parameters(), *system.buffers()])
    return MemoryNeeds((height, width), weights, 0, 0, 0, tuple(moments))


def _meta(module: nn.Module) -> Any:
    """A module as a function of shapes."""
    tensors = {name: x.to("meta") for name, x in [*module.named_parameters(), *module.named_buffers()]}
    return lambda *inputs: functional_call(module, tensors, inputs)


def transformer_bytes(dit: VideoDiT, tokens: int, keys: int) -> int:
    """Bytes of tensors that are alive while a chunk passes the blocks, in inference: an upper bound.

    Args:
        dit: The transformer.
        tokens: Of the chunk.
        keys: Of the chunk and of the past.
    """
    dim, size = dit.heads * dit.head_dim, dit.patch_embedding.weight.dtype.itemsize
    row, hidden = tokens * dim * size, dit.blocks[0].ffn[0].out_features
    pairs = 16 * dit.heads * (tokens // 128) * (keys // 128)  # scores, choice and lists of blocks
    piece = min(tokens, PIECE_TOKENS) * (2 * hidden + 3 * dim) * size
    rotations = 2 * 4 * tokens * dit.head_dim
    rounded = rounded_bytes(getattr(dit.blocks[0].self_attn, "impl", ""), tokens, keys, dim)
    return rotations + max(ROWS * row + pairs + rounded, 3 * row + piece)


def rounded_bytes(impl: str, tokens: int, keys: int, dim: int) -> int:
    """Bytes of what attention in 8 bits rounds at a call: queries, keys, perhaps values, and means with scales."""
    if not impl.startswith(("triton_", "hopper_")):
        return 0
    return dim * (tokens + keys * (1 if impl.endswith("int8") else 2)) + 12 * dim * (keys // 128)
