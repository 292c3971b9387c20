"""Who attends to whom, and how it is computed.

Everything here is plain PyTorch and works alone: block order, masks and top-k selection as functions, block-sparse and
packed attention with interchangeable implementations, a streaming key-value cache, and layers made of them.
"""

from flashvsr.attention.blocks import (
    BLOCK_SHAPE,
    BLOCK_SIZE,
    TokenGrid,
    crop_from_blocks,
    pad_to_blocks,
    partition_blocks,
    unpartition_blocks,
)
from flashvsr.attention.cache import KVCache
from flashvsr.attention.choice import choose_impl, explain_impls
from flashvsr.attention.layers import CrossAttention, FullAttention, LocalSparseAttention, RMSNorm
from flashvsr.attention.masks import causal_slot_mask, segment_mask, window_mask
from flashvsr.attention.ops import block_sparse_attention, packed_attention
from flashvsr.attention.rope import apply_rope, rope_table
from flashvsr.attention.select import BlockSelection, block_means, select_blocks
from flashvsr.kernels import ImplUnavailableError

__all__ = [
    "BLOCK_SHAPE",
    "BLOCK_SIZE",
    "BlockSelection",
    "CrossAttention",
    "FullAttention",
    "ImplUnavailableError",
    "KVCache",
    "LocalSparseAttention",
    "RMSNorm",
    "TokenGrid",
    "apply_rope",
    "block_means",
    "block_sparse_attention",
    "causal_slot_mask",
    "choose_impl",
    "crop_from_blocks",
    "explain_impls",
    "packed_attention",
    "pad_to_blocks",
    "partition_blocks",
    "rope_table",
    "segment_mask",
    "select_blocks",
    "unpartition_blocks",
    "window_mask",
]
