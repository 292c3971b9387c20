"""Fast mode: what a transformer gives up in exactness for speed, all of it or in parts."""

from __future__ import annotations

import torch

from flashvsr.attention import LocalSparseAttention
from flashvsr.attention.impl.triton_8bit import EIGHT_BIT, disproof
from flashvsr.kernels import unavailable
from flashvsr.models.dit import VideoDiT

SPARSE_RATIO = 1.5
"""Density of attention in fast mode, where a model has more: the released ones have 2.0."""

IMPL = "triton_8bit"
"""Attention of fast mode."""


def use_fp8(dit: VideoDiT, device: torch.device, dtype: torch.dtype) -> None:
    """Multiply in 8-bit floats, see :meth:`flashvsr.models.dit_blocks.DiTBlock.to_fp8`.

    Args:
        dit: Changed in place, for good.
        device: Where it runs.
        dtype: Of its computation.

    Raises:
        ValueError: If the GPU cannot; a CPU imitates it.
    """
    reason = unavailable("fp8_product", device, dtype)
    if reason is not None and device.type == "cuda":
        raise ValueError(f"8-bit floats cannot be used here: {reason}")
    for block in dit.blocks:  # rounded on the device, wherever the weights lie
        home = block.modulation.device
        block.to(device).to_fp8()
        block.to(home)


def check_fast(device: torch.device, dtype: torch.dtype, *, impl: str = "auto", head_dim: int = 128) -> None:
    """Refuse fast mode where a part of it cannot run: nothing is left out silently.

    Args:
        device: Where it would run.
        dtype: Of the computation.
        impl: Implementation of attention that was asked for; the kernels of ``"auto"`` compute a small case first.
        head_dim: Channels per head.

    Raises:
        ValueError: With the reason, and the parts to have one by one.
    """
    reason = unavailable("fp8_product", device, dtype)
    if impl == "auto":
        reason = reason or EIGHT_BIT.unavailable(device, dtype, head_dim, requires_grad=False)
        reason = reason or disproof(fp8_values=True, device=device, dtype=dtype)
    if reason is not None:
        raise ValueError(
            f"fast mode cannot run here: {reason}. Its parts can be had one by one: fp8 (--fp8), "
            f"sparse_ratio={SPARSE_RATIO} (--sparse-ratio), impl='{IMPL}' or 'triton_int8' (--impl)"
        )


def fast_choices(dit: VideoDiT, *, impl: str = "auto", sparse_ratio: float | None = None) -> tuple[str, float | None]:
    """What fast mode makes of choices that were left open.

    Args:
        dit: The transformer; not changed.
        impl: Implementation of attention; ``"auto"`` becomes :data:`IMPL`.
        sparse_ratio: Density; None becomes :data:`SPARSE_RATIO`, or stays where the model has no more.

    Returns:
        Implementation and density.
    """
    if sparse_ratio is None:
        layers = [block.self_attn for block in dit.blocks]
        ratios = [layer.selection.sparse_ratio for layer in layers if isinstance(layer, LocalSparseAttention)]
        sparse_ratio = SPARSE_RATIO if ratios and max(ratios) > SPARSE_RATIO else None
    return IMPL if impl == "auto" else impl, sparse_ratio
