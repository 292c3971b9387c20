"""Attention layers: projections, norm and RoPE around the functions of this package, under the released names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from flashvsr.attention.blocks import TokenGrid
from flashvsr.attention.cache import KVCache
from flashvsr.attention.masks import causal_slot_mask, window_mask
from flashvsr.attention.ops import block_sparse_attention, packed_attention
from flashvsr.attention.rope import norm_rope, rms_norm
from flashvsr.attention.select import RULES, block_means, select_from_means

FIRST_SLOTS = 3
"""Slots of the first chunk, which see one another."""


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
    """Project, norm and rotate: `[B, heads, N, D]` each, as views of token-major storage."""
    query, key = (
        norm_rope(projected, norm.weight, rope, heads=layer.heads, eps=norm.eps)
        for projected, norm in ((layer.q(x), layer.norm_q), (layer.k(x), layer.norm_k))
    )
    return query.transpose(1, 2), key.transpose(1, 2), _split_heads(layer.v(x), layer.heads)


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


@cache  # a CUDA graph that reads it does not keep it alive
def _window_on(device: torch.device, grid_hw: tuple[int, int], window_hw: tuple[int, int], boundary: str) -> Tensor:
    return window_mask(grid_hw, window_hw, boundary=boundary).to(device)


@lru_cache(maxsize=16)
def _causal_window_on(
    device: torch.device, slots: int, history: int, grid_hw: tuple[int, int], window_hw: tuple[int, int], boundary: str
) -> Tensor:
    slot = causal_slot_mask(slots, history, first_slots=FIRST_SLOTS)
    window = window_mask(grid_hw, window_hw, boundary=boundary)
    return torch.kron(slot, window).to(device)


class BlockSelection(nn.Module):
    """Which block pairs a sparse layer computes: a window, and a budget inside it. No parameters.

    It is a module so that a forward hook can record its masks, or replace them by given ones.

    Args:
        window_hw: Rows and columns of the window, in blocks.
        boundary: What the window does at the border, see :func:`~flashvsr.attention.window_mask`.
        sparse_ratio: Density: at any resolution a query block keeps about ``60 * sparse_ratio`` key blocks on average.
        rule: What a budget that covers everything does, see :func:`~flashvsr.attention.select_blocks`.

    Attributes:
        impl: Of :func:`~flashvsr.attention.select.select_from_means`, where the slots of a stream choose.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, locality-constrained sparse attention.
    """

    def __init__(
        self,
        window_hw: tuple[int, int] = (11, 11),
        boundary: str = "truncated",
        sparse_ratio: float = 2.0,
        rule: str = "released",
    ) -> None:
        super().__init__()
        self.impl = "auto"
        self.window_hw = (window_hw[0], window_hw[1])  # a list in recipes
        window_mask((1, 1), self.window_hw, boundary=boundary)  # raises for sizes or a boundary that make no sense
        if sparse_ratio <= 0:
            raise ValueError(f"sparse_ratio is positive, got {sparse_ratio}")
        if rule not in RULES:
            raise ValueError(f"rule is one of {', '.join(RULES)}, got {rule!r}")
        self.boundary, self.sparse_ratio, self.rule = boundary, sparse_ratio, rule

    def budget(self, grid: TokenGrid) -> int:
        """Pairs kept per (head, query slot).

        The released code scales the ratio by the frame size first and multiplies by S*S afterwards, both in float64;
        the order decides single blocks at some sizes (640x1408).
        """
        rows, columns = grid.blocks_hw
        pixels = grid.rows * 16 * grid.columns * 16
        ratio = self.sparse_ratio * 768 * 1280 / pixels
        return int((rows * columns) ** 2 * ratio) - 1

    def forward(self, query: Tensor, key_means: Tensor, grid: TokenGrid, history: int | None = None) -> Tensor:
        """Choose.

        Args:
            query: `[B, heads, N, D]` in block order.
            key_means: Block means of all visible keys, `[B, heads, key blocks, D]`.
            grid: Size of the query.
            history: None when every key slot is visible from every query slot (a chunk of a stream); a number when the
                keys are the queries' own and slots are causal with that much history (a whole sequence).

        Returns:
            Boolean `[B, heads, N/128, key blocks]`.
        """
        where = (grid.blocks_hw, self.window_hw, self.boundary)
        impl = "plain" if history is not None else self.impl
        tracing = torch.compiler.is_compiling()  # a tracer's tensors must not stay in the caches
        if history is None:
            window = _window_on.__wrapped__ if tracing else _window_on
            allowed = window(query.device, *where)
        else:
            causal_window = _causal_window_on.__wrapped__ if tracing else _causal_window_on
            allowed = causal_window(query.device, grid.slots, history, *where)
        return select_from_means(
            block_means(query),
            key_means,
            allowed,
            budget=self.budget(grid),
            slots=grid.slots,
            rule=self.rule,
            impl=impl,
        )

    def extra_repr(self) -> str:
        """Arguments, for ``print``."""
        return f"window_hw={self.window_hw}, {self.boundary}, sparse_ratio={self.sparse_ratio}, {self.rule}"


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
    ) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = _projections(dim, heads)
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)  # over all heads together
        if history < 0:
            raise ValueError(f"history counts the earlier slots a chunk sees, at least 0; got {history}")
        self.history = history
        self.impl = impl
        self.selection = BlockSelection(window_hw, boundary, sparse_ratio, rule)

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
            grid: Size of the sequence.
            rope: `[N, D/2, 2]` in block order.
            cache: The stream's past, to which this chunk is added; its slots see one another. None for a whole
                sequence.
            layer: Which ring of the cache is this layer's.
            history: For a whole sequence, another history than the layer's own.

        Returns:
            `[B, N, dim]`.
        """
        query, key, value = _query_key_value(self, x, rope)
        means = block_means(key)
        if cache is None:
            history = self.history if history is None else history
            mask = self.selection(query, means, grid, history)
            return self.o(_merge_heads(block_sparse_attention(query, key, value, mask, impl=self.impl)))
        past_key, past_value, past_means = cache.read(layer)
        mask = self.selection(query, torch.cat((past_means, means), 2), grid)
        keys = (past_key, key) if cache.filled else key
        values = (past_value, value) if cache.filled else value
        out = block_sparse_attention(query, keys, values, mask, impl=self.impl)
        cache.write(layer, key, value, means)
        return self.o(_merge_heads(out))
