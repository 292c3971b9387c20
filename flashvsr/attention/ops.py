"""Sparse and packed attention as functions: checks, then one of the files of ``impl/`` does the work."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from flashvsr.attention.blocks import BLOCK_SIZE
from flashvsr.attention.choice import PACKED, SPARSE, resolve
from flashvsr.attention.impl import compiled


def block_sparse_attention(
    query: Tensor,
    key: Tensor | tuple[Tensor, ...],
    value: Tensor | tuple[Tensor, ...],
    block_mask: Tensor,
    block_size: int = BLOCK_SIZE,
    scale: float | None = None,
    impl: str = "auto",
    *,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Softmax attention over the kept blocks only.

    What the mask hides is not read: a NaN in a hidden key or value reaches neither the output nor a gradient.

    Under ``torch.compile`` and ``torch.export`` the call is one operator of the graph, except ``"dense"``, which is
    traced. Its backward pass computes the forward pass again. A program exported with it needs
    ``import flashvsr.attention`` where it is loaded.

    Args:
        query: `[B, heads, N, D]` of any strides, N a multiple of `block_size`. Without samples, queries or keys the
            result is empty or zero.
        key: `[B, heads, M, D]` likewise, or a tuple of such pieces that stand one after the other (a cache and the
            present), which spares the copy that joining them would cost.
        value: As `key`.
        block_mask: Boolean `[B or 1, heads or 1, N/block_size, M/block_size]`; True is computed. A row of blocks
            without any gives zeros.
        block_size: Tokens per block.
        scale: Factor on the scores; None for 1/sqrt(D).
        impl: ``"auto"``, or the name of an implementation (``IMPLS`` of
            ``flashvsr.attention.choice``), which then runs or raises.
        key_mask: Boolean `[M]`, the keys that take part: False for padding. None for all. Only those
            of ``KEY_MASK_IMPLS`` there take one.

    Returns:
        `[B, heads, N, D]` in the dtype of `query`; under autocast, as with PyTorch's own attention, everything is
        first cast to its dtype.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit together or `impl` is unknown.
        ImplUnavailableError: If the named implementation cannot run here; the message says why.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, locality-constrained sparse attention.
    """
    keys = key if isinstance(key, tuple) else (key,)
    values = value if isinstance(value, tuple) else (value,)
    query, keys, values = _autocast(query, keys, values)
    _check_pieces(query, keys, values, block_size)
    _check_mask(block_mask, query, sum(piece.shape[2] for piece in keys), block_size)
    block_mask = block_mask.expand(*query.shape[:2], -1, -1)
    if key_mask is not None:
        _check_key_mask(key_mask, query, block_mask.shape[3] * block_size)
        block_mask = block_mask & key_mask.view(-1, block_size).any(1)  # a block of nothing but hidden keys is dropped
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, *keys, *values))
    masked = key_mask is not None
    name = resolve(impl, query.device, query.dtype, query.shape[3], needs_grad, False, block_size, masked)
    if not (query.numel() and block_mask.numel()):
        return _nothing(query, keys, values)
    scale = query.shape[3] ** -0.5 if scale is None else scale
    if torch.compiler.is_compiling() and name != "dense":
        return compiled.attend(name, query, keys, values, block_mask, key_mask, block_size=block_size, scale=scale)
    extra = {} if key_mask is None else {"key_mask": key_mask}
    return SPARSE[name].attend(query, keys, values, block_mask, block_size=block_size, scale=scale, **extra)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float | None = None, impl: str = "auto"
) -> Tensor:
    """Full attention inside each of several samples packed in one sequence.

    Args:
        query: `[1, heads, N, D]` with ``N = sum(lengths)``.
        key: As `query`.
        value: As `query`.
        lengths: Tokens of each sample, whole numbers of at least 1.
        scale: Factor on the scores; None for 1/sqrt(D).
        impl: ``"auto"``, or the name of an implementation (``PACKED_IMPLS`` of
            ``flashvsr.attention.choice``), which then runs or raises.

    Returns:
        `[1, heads, N, D]` in the dtype of `query`, or of autocast.

    Raises:
        ValueError: If shapes, dtypes or devices do not fit together or `impl` is unknown.
        TypeError: If a length is not a whole number.
        ImplUnavailableError: If the named implementation cannot run here; the message says why.
    """
    query, (key,), (value,) = _autocast(query, (key,), (value,))
    _check_pieces(query, (key,), (value,), 1)
    lengths = [operator.index(length) for length in lengths]
    fits = lengths and min(lengths) > 0 and sum(lengths) == query.shape[2] == key.shape[2]
    if query.shape[0] != 1 or not fits:
        raise ValueError(
            f"lengths {lengths} are at least 1 and sum to the tokens of one packed sequence [1, heads, N, D]; "
            f"got query {list(query.shape)}, key {list(key.shape)}"
        )
    needs_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    name = resolve(impl, query.device, query.dtype, query.shape[3], needs_grad, True)
    scale = query.shape[3] ** -0.5 if scale is None else scale
    return PACKED[name].attend_packed(query, key, value, lengths, scale=scale)


def _nothing(query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]) -> Tensor:
    """What there is without samples, queries or keys: zeros, through which zero gradients flow."""
    everything = torch.ones((), dtype=torch.bool, device=query.device)
    return query.masked_fill(everything, 0.0) + sum(x.sum() for x in (*keys, *values))


def _autocast(
    query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Cast to the dtype of autocast where it is on: layers hand over fp32 from their norms and bf16 from the rest."""
    device = query.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return query, keys, values
    dtype = torch.get_autocast_dtype(device)
    return query.to(dtype), tuple(x.to(dtype) for x in keys), tuple(x.to(dtype) for x in values)


def _check_pieces(query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], block_size: int) -> None:
    if query.ndim != 4:
        raise ValueError(f"query is [B, heads, N, D], got {list(query.shape)}")
    if block_size < 1 or not query.shape[3]:
        raise ValueError(f"block_size and D are at least 1, got {block_size} and query {list(query.shape)}")
    if query.shape[2] % block_size:
        raise ValueError(f"{query.shape[2]} query tokens are not whole blocks of {block_size}")
    if not keys or len(keys) != len(values):
        raise ValueError(f"key and value have as many pieces, at least one: got {len(keys)} and {len(values)}")
    for key, value in zip(keys, values, strict=True):
        expected = (*query.shape[:2], key.shape[2] if key.ndim == 4 else "M", query.shape[3])
        if key.shape != value.shape or tuple(key.shape) != expected or key.shape[2] % block_size:
            raise ValueError(
                f"key and value are {list(expected)} with M a multiple of {block_size}: "
                f"got {list(key.shape)} and {list(value.shape)}"
            )
        if {key.dtype, value.dtype} != {query.dtype} or {key.device, value.device} != {query.device}:
            raise ValueError(
                "query, key and value share dtype and device: got "
                + ", ".join(f"{x.dtype} on {x.device}" for x in (query, key, value))
            )


def _check_mask(block_mask: Tensor, query: Tensor, key_tokens: int, block_size: int) -> None:
    batch, heads, tokens, _ = query.shape
    rows, columns = tokens // block_size, key_tokens // block_size
    shape = tuple(block_mask.shape)
    fits = len(shape) == 4 and shape[0] in (1, batch) and shape[1] in (1, heads) and shape[2:] == (rows, columns)
    if block_mask.dtype != torch.bool or not fits:
        raise ValueError(
            f"block_mask is a boolean [{batch} or 1, {heads} or 1, {rows}, {columns}], "
            f"got {block_mask.dtype} {list(shape)}"
        )
    if block_mask.device != query.device:
        raise ValueError(f"block_mask is on {block_mask.device} and query on {query.device}: move the mask there")


def _check_key_mask(key_mask: Tensor, query: Tensor, key_tokens: int) -> None:
    if key_mask.dtype != torch.bool or tuple(key_mask.shape) != (key_tokens,):
        raise ValueError(f"key_mask is a boolean [{key_tokens}], got {key_mask.dtype} {list(key_mask.shape)}")
    if key_mask.device != query.device:
        raise ValueError(f"key_mask is on {key_mask.device} and query on {query.device}: move the mask there")
