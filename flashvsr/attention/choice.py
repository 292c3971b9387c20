"""Which of the files of ``impl/`` runs an attention, and why not the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch

from flashvsr.attention.blocks import BLOCK_SIZE
from flashvsr.attention.impl import (
    dense,
    flex,
    gather,
    hopper,
    hopper_8bit,
    packed_flex,
    packed_sdpa,
    packed_xformers,
    plain_8bit,
    reference,
    triton,
    triton_8bit,
)
from flashvsr.kernels import ImplUnavailableError

SPARSE: dict[str, Any] = {
    "hopper": hopper,
    "triton": triton,
    "gather": gather,
    "flex": flex,
    "dense": dense,
    "reference": reference,
    "hopper_8bit": hopper_8bit,
    "triton_8bit": triton_8bit.EIGHT_BIT,
    "triton_int8": triton_8bit.INT8,
    "plain_8bit": plain_8bit.EIGHT_BIT,
    "plain_int8": plain_8bit.INT8,
}
"""Modules, or objects, with ``attend`` and ``unavailable``, by the name of the implementation."""

PACKED: dict[str, ModuleType] = {"xformers": packed_xformers, "sdpa": packed_sdpa, "flex": packed_flex}
"""Modules with ``attend_packed`` and ``unavailable``."""

IMPLS = tuple(SPARSE)
"""Implementations of :func:`~flashvsr.attention.block_sparse_attention`."""

AUTO_IMPLS = ("hopper", "triton", "gather", "flex")
"""Those that ``auto`` takes, as it prefers them: not the slow ones, and not those in 8 bits, which are less exact."""

EIGHT_BIT_IMPLS = ("hopper_8bit", "triton_8bit", "triton_int8", "plain_8bit", "plain_int8")
"""Those that round to 8 bits: queries and keys, and those named 8bit weights and values too. No gradients."""

PACKED_IMPLS = tuple(PACKED)
"""Implementations of :func:`~flashvsr.attention.packed_attention`, as ``auto`` prefers them."""

KEY_MASK_IMPLS = ("gather", "flex", "dense", "reference")
"""Implementations of :func:`~flashvsr.attention.block_sparse_attention` that take a mask of single keys."""


@cache
def choose_impl(
    device: torch.device | str,
    dtype: torch.dtype,
    head_dim: int,
    requires_grad: bool,
    *,
    packed: bool = False,
    block_size: int = BLOCK_SIZE,
    key_mask: bool = False,
) -> tuple[str, str]:
    """Which implementation ``auto`` runs, and why.

    Args:
        device: Where the tensors are.
        dtype: Their dtype.
        head_dim: Channels per head.
        requires_grad: Whether gradients are wanted.
        packed: Ask for packed attention instead of block-sparse attention.
        block_size: Tokens per block; packed attention ignores it.
        key_mask: Whether single keys are hidden.

    Returns:
        The name, and a reason in one line.

    Raises:
        ImplUnavailableError: If none can run.
    """
    where = (device, dtype, head_dim, requires_grad)
    reasons = explain_impls(*where, packed=packed, block_size=block_size, key_mask=key_mask)
    candidates = PACKED_IMPLS if packed else AUTO_IMPLS
    for index, name in enumerate(candidates):
        if reasons[name] is None:
            proven, words = _prove(name, torch.device(device), dtype)
            if proven:
                passed_over = "; ".join(f"{other}: {reasons[other]}" for other in candidates[:index])
                return name, passed_over or words
            reasons[name] = words
    refusals = "; ".join(f"{name}: {reasons[name]}" for name in candidates)
    raise ImplUnavailableError(f"no implementation runs here: {refusals}")


def explain_impls(
    device: torch.device | str,
    dtype: torch.dtype,
    head_dim: int,
    requires_grad: bool,
    *,
    packed: bool = False,
    block_size: int = BLOCK_SIZE,
    key_mask: bool = False,
) -> dict[str, str | None]:
    """For every implementation, None if it can run, else the reason why not.

    Args:
        device: As for :func:`choose_impl`.
        dtype: As for :func:`choose_impl`.
        head_dim: As for :func:`choose_impl`.
        requires_grad: As for :func:`choose_impl`.
        packed: As for :func:`choose_impl`.
        block_size: As for :func:`choose_impl`.
        key_mask: As for :func:`choose_impl`.

    Returns:
        Reasons by name.
    """
    names = PACKED_IMPLS if packed else IMPLS
    where = (torch.device(device), dtype, head_dim, requires_grad)
    return {name: _unavailable(name, *where, packed, block_size, key_mask) for name in names}


def _prove(name: str, device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether ``auto`` may take an implementation that can run, and why; only some have to be proven."""
    prove: Callable[[torch.device, torch.dtype], tuple[bool, str]] | None
    prove = getattr(SPARSE.get(name), "prove", None)
    return (True, "the fastest one there is") if prove is None else prove(device, dtype)


def _unavailable(
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    requires_grad: bool,
    packed: bool,
    block_size: int,
    key_mask: bool,
) -> str | None:
    if packed:
        return PACKED[name].unavailable(device, dtype, head_dim, requires_grad)
    if key_mask and name not in KEY_MASK_IMPLS:
        return f"it takes no key_mask; {', '.join(KEY_MASK_IMPLS)} do"
    return SPARSE[name].unavailable(device, dtype, head_dim, requires_grad, block_size)


def resolve(
    impl: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    requires_grad: bool,
    packed: bool,
    block_size: int = BLOCK_SIZE,
    key_mask: bool = False,
) -> str:
    """Return the name of the implementation that is to run; a named one runs or raises."""
    names = PACKED_IMPLS if packed else IMPLS
    where = (device, dtype, head_dim, requires_grad)
    if impl == "auto":
        return choose_impl(*where, packed=packed, block_size=block_size, key_mask=key_mask)[0]
    if impl not in names:
        raise ValueError(f"impl is 'auto' or one of {', '.join(names)}; got {impl!r}")
    reason = _unavailable(impl, *where, packed, block_size, key_mask)
    if reason is not None:
        raise ImplUnavailableError(f"impl {impl!r} cannot run here: {reason}")
    return impl


# What torch.compiler.assume_constant_result sets, without importing the compiler: a tracer calls it and keeps the name.
resolve.__dict__["_dynamo_marked_constant"] = True
