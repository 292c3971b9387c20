"""Attention layers: projections, norm and RoPE around the functions of this package, under the released names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from flashvsr.attention.blocks import TokenGrid
from flashvsr.attention.cache import KVCache
from flashvsr.attention.ops import block_sparse_attention, packed_attention
from flashvsr.attention.rope import check_rope, norm_rope, rms_norm
from flashvsr.attention.select import FIRST_SLOTS, BlockSelection, block_means


class RMSNorm(nn.Module):
    """Module form of :func:`~flashvsr.attention.rope.rms_norm`.

    Args:
        dim: Size of the last axis.
        eps: Added to the mean square.
    """

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dim]` to the same."""
        return rms_norm(x, self.weight, self.eps)


def _projections(dim: int, heads: int) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
    if dim % heads:
        raise ValueError(f"dim is a multiple of heads: got {dim} and {heads}")
    return nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)


def _query_key_value(layer: Any, x: Tensor, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project, norm and rotate: `[B, heads, N, D]` each, as views of token-major storage.

    Raises:
        ValueError: If the tokens or the RoPE table are not what the layer takes.
    """
    dim = layer.q.in_features
    if x.ndim != 3 or x.shape[2] != dim:
        raise ValueError(f"x is [B, N, {dim}], got {list(x.shape)}")
    check_rope(rope, x.shape[1], layer.o.in_features // layer.heads, layer.order)
    shared = layer.q.quantize(x) if hasattr(layer.q, "quantize") else x  # layers in 8 bits take the same numbers
    query, key = (
        norm_rope(projected, norm.weight, rope, heads=layer.heads, eps=norm.eps)
        for projected, norm in ((layer.q(shared), layer.norm_q), (layer.k(shared), layer.norm_k))
    )
    return query.transpose(1, 2), key.transpose(1, 2), _split_heads(layer.v(shared), layer.heads)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)  # [B, heads, N, D]


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [B, N, dim]


class FullAttention(nn.Module):
    """Every token attends to every token of its sample: the explicit dense variant.

    Args:
        dim: Channels of a token.
        heads: Attention heads.
        eps: Of the norms of query and key.
        impl: Of :func:`~flashvsr.attention.packed_attention`, for packed samples.

    Raises:
        ValueError: If `dim` is not a multiple of `heads`.
    """

    order = "raster"

    def __init__(self, dim: int, heads: int, *, eps: float = 1e-6, impl: str = "auto") -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = _projections(dim, heads)
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)  # over all heads together
        self.impl = impl

    def forward(self, x: Tensor, grid: TokenGrid, rope: Tensor, *, lengths: Sequence[int] | None = None) -> Tensor:
        """Attend.

        Args:
            x: `[B, N, dim]` in raster order; `[1, N, dim]` when packed.
            grid: Ignored: nothing here depends on where a token is, beyond `rope`.
            rope: `[N, D/2, 2]` of :func:`~flashvsr.attention.rope_table`.
            lengths: Tokens of each sample of a packed sequence; None when every row of the batch is one sample.

        Returns:
            `[B, N, dim]`.

        Raises:
            ValueError: If `x`, `rope` or `lengths` do not fit, or `rope` says that it is in block order.
        """
        query, key, value = _query_key_value(self, x, rope)
        if lengths is None:
            return self.o(_merge_heads(scaled_dot_product_attention(query, key, value)))
        return self.o(_merge_heads(packed_attention(query, key, value, lengths, impl=self.impl)))


class CrossAttention(nn.Module):
    """Tokens attend to a prompt, whose keys and values are computed once.

    Args:
        dim: Channels of a token.
        heads: Attention heads.
        eps: Of the norms of query and key.
    """

    def __init__(self, dim: int, heads: int, *, eps: float = 1e-6) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = _projections(dim, heads)
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)  # over all heads together

    def project_context(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of an embedded prompt.

        Args:
            context: `[B, L, dim]`.

        Returns:
            Two of `[B, L, dim]`.
        """
        return self.norm_k(self.k(context)), self.v(context)

    def forward(self, x: Tensor, context: tuple[Tensor, Tensor]) -> Tensor:
        """`[B, N, dim]` to the same; `context` is what :meth:`project_context` returned, of batch B or 1."""
        query, key, value = (_split_heads(y, self.heads) for y in (self.norm_q(self.q(x)), *context))
        key, value = (y.expand(query.shape[0], -1, -1, -1) for y in (key, value))
        return self.o(_merge_heads(scaled_dot_product_attention(query, key, value)))


class LocalSparseAttention(nn.Module):
    """Locality-constrained sparse attention, causal by slot, over a stream or a whole sequence.

    Args:
        dim: Channels of a token.
        heads: Attention heads.
        window_hw: Rows and columns of the window, in blocks.
        boundary: What the window does at the border, see :func:`~flashvsr.attention.window_mask`.
        sparse_ratio: Density, see :class:`BlockSelection`.
        history: Earlier slots a chunk sees; 0 for none.
        rule: What a budget that covers everything does, see :func:`~flashvsr.attention.select_blocks`.
        eps: Of the norms of query and key.
        impl: Of :func:`~flashvsr.attention.block_sparse_attention`.
        first_slots: Leading slots that see one another. A stream begins with all of them in one call, or is shorter.
        token_pixels: Rows and columns of pixels that a token stands for, by which `sparse_ratio` counts.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, locality-constrained sparse attention.
    """

    order = "block"

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        window_hw: tuple[int, int] = (11, 11),
        boundary: str = "truncated",
        sparse_ratio: float = 2.0,
        history: int = 3,
        rule: str = "released",
        eps: float = 1e-6,
        impl: str = "auto",
        first_slots: int = FIRST_SLOTS,
        token_pixels: int = 16,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = _projections(dim, heads)
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)  # over all heads together
        if history < 0:
            raise ValueError(f"history counts the earlier slots a chunk sees, at least 0; got {history}")
        self.history = history
        self.impl = impl
        self.first_slots = first_slots
        self.selection = BlockSelection(
            window_hw, boundary, sparse_ratio, rule, first_slots=first_slots, token_pixels=token_pixels
        )

    def forward(
        self,
        x: Tensor,
        grid: TokenGrid,
        rope: Tensor,
        *,
        cache: KVCache | None = None,
        layer: int = 0,
        history: int | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: `[B, N, dim]` in block order.
            grid: Size of the sequence, and which of it is padding, which then takes no part.
            rope: `[N, D/2, 2]` in block order.
            cache: The stream's past, to which this chunk is added. None for a whole sequence. A chunk may hold any
                number of slots; all chunks together give what the whole sequence gives.
            layer: Which ring of the cache is this layer's.
            history: For a whole sequence, another history than the layer's own.

        Returns:
            `[B, N, dim]`.

        Raises:
            TypeError: If `grid` is not a :class:`~flashvsr.attention.TokenGrid`.
            ValueError: If sizes, the order of `rope`, or the place of the chunk in the stream do not fit.
        """
        if not isinstance(grid, TokenGrid):
            raise TypeError(f"grid is a TokenGrid(frames, rows, columns), got {grid!r}")
        if x.shape[1] != grid.tokens:
            sizes = f"{grid.frames}x{grid.rows}x{grid.columns}"
            raise ValueError(f"x holds {x.shape[1]} tokens and the grid {sizes} = {grid.tokens}")
        if cache is not None:
            self._check_cache(x, grid, cache, layer, history)
        query, key, value = _query_key_value(self, x, rope)
        key_mask = grid.key_mask(x.device)
        means = block_means(key, key_mask=key_mask)
        if cache is not None:
            return self.o(_merge_heads(self._stream(query, key, value, means, grid, cache, layer)))
        mask = self.selection(query, means, grid, self.history if history is None else history)
        out = block_sparse_attention(query, key, value, mask, impl=self.impl, key_mask=key_mask)
        return self.o(_merge_heads(out))

    def _stream(
        self, query: Tensor, key: Tensor, value: Tensor, means: Tensor, grid: TokenGrid, cache: KVCache, layer: int
    ) -> Tensor:
        """Attend to the past and the slots of the chunk: the first slots of a stream together, others one by one."""
        first = min(grid.slots, self.first_slots) if cache.slots_seen == 0 else 1
        if first == grid.slots:
            return self._step(query, key, value, means, grid, cache, layer)
        outputs, ahead = [], 0
        for slots in (first, *[1] * (grid.slots - first)):
            content = None if grid.content is None else (2 * slots, *grid.content[1:])
            part = replace(grid, frames=2 * slots, frame_offset=grid.frame_offset + 2 * ahead, content=content)
            q, k, v, m = (
                x.unflatten(2, (grid.slots, -1))[:, :, ahead : ahead + slots].flatten(2, 3)
                for x in (query, key, value, means)
            )
            outputs.append(self._step(q, k, v, m, part, cache, layer, ahead))
            ahead += slots
        return torch.cat(outputs, 2)

    def _step(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        means: Tensor,
        grid: TokenGrid,
        cache: KVCache,
        layer: int,
        ahead: int = 0,
    ) -> Tensor:
        """Attend from slots that see one another to them and to the past, then add them to the past."""
        past_key, past_value, past_means = cache.read(layer, ahead=ahead)
        mask = self.selection(query, torch.cat((past_means, means), 2), grid)
        filled = past_key.shape[2] > 0
        keys = (past_key, key) if filled else key
        values = (past_value, value) if filled else value
        key_mask = grid.key_mask(query.device)
        if key_mask is not None:  # padding lies at the same place in every slot
            slots = (past_key.shape[2] + key.shape[2]) // cache.slot_tokens
            key_mask = key_mask[: cache.slot_tokens].repeat(slots)
        out = block_sparse_attention(query, keys, values, mask, impl=self.impl, key_mask=key_mask)
        cache.write(layer, key, value, means, ahead=ahead)
        return out

    def _check_cache(self, x: Tensor, grid: TokenGrid, cache: KVCache, layer: int, history: int | None) -> None:
        """Refuse a chunk that does not continue the stream of the cache; looks at sizes only."""
        if cache.history != self.history or history not in (None, self.history):
            asked = self.history if history is None else history
            raise ValueError(
                f"the layer sees {asked} earlier slots and the cache keeps {cache.history}: make them equal"
            )
        if not 0 <= layer < cache.layers:
            raise ValueError(f"the cache has layers 0 to {cache.layers - 1}, got layer {layer}")
        held = (cache.batch, cache.slot_tokens, cache.heads, cache.head_dim)
        given = (x.shape[0], grid.tokens // grid.slots, self.heads, self.o.in_features // self.heads)
        if held != given:
            raise ValueError(f"the cache holds (batch, tokens per slot, heads, head dim) {held}, the chunk is {given}")
        if grid.frame_offset != 2 * cache.slots_seen:
            raise ValueError(
                f"the cache has seen {cache.slots_seen} slots, so this chunk starts at frame {2 * cache.slots_seen} of "
                f"the stream; its grid says frame_offset={grid.frame_offset}: set it, in rope_table too, and call "
                "cache.advance(slots) once after each chunk"
            )
        if 0 < cache.slots_seen < self.first_slots:
            raise ValueError(
                f"the first {self.first_slots} slots see one another and come in one call, the stream began with "
                f"{cache.slots_seen}: pass them together, or build the layer with first_slots={cache.slots_seen}"
            )
        if grid.content is not None and grid.content[0] != grid.frames:
            raise ValueError(f"a stream is padded in space only, got {grid.content[0]} of {grid.frames} frames")
