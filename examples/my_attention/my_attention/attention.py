"""Sparse attention along rows and columns of blocks, on the functions of flashvsr.attention."""

import torch
from torch import Tensor, nn

from flashvsr.attention import (
    KVCache,
    RMSNorm,
    TokenGrid,
    apply_rope,
    block_means,
    block_sparse_attention,
    causal_slot_mask,
    window_mask,
)


def axial_mask(grid_hw: tuple[int, int]) -> Tensor:
    """Which blocks of a slot see which: bool `[S, S]`, True in the same row or the same column."""
    rows, columns = grid_hw
    return window_mask(grid_hw, (1, 2 * columns)) | window_mask(grid_hw, (2 * rows, 1))


class AxialAttention(nn.Module):
    """A block attends to the blocks of its row and of its column, now and in the slots before.

    `flashvsr.models.VideoDiT` calls a layer as `forward` is declared here, and reads `order` and `history`. `impl` is
    optional: with it, `flashvsr upscale --impl` works.

    Args:
        dim: Channels of a token.
        heads: Attention heads.
        history: Earlier slots, of two latent frames each, that a chunk sees.
    """

    order = "block"  # of the tokens; "raster" is for full attention

    def __init__(self, dim: int, heads: int, *, history: int = 2) -> None:
        super().__init__()
        self.heads, self.history, self.impl = heads, history, "auto"
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim), RMSNorm(dim)

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
        """Attend, `[B, N, dim]` in block order to the same.

        Args:
            x: A whole clip without `cache`. With one, the next slots of its stream: the first three together, then one
                at a time.
            grid: Size of `x` in tokens.
            rope: `[N, D/2, 2]` of `flashvsr.attention.rope_table`.
            cache: Keys and values of the slots before.
            layer: Which ring of the cache is that of this layer.
            history: For a whole clip, another history than the layer's own: training draws it at random.
        """
        query, key = (
            apply_rope(norm(project(x)).unflatten(2, (self.heads, -1)), rope).transpose(1, 2)  # [B, heads, N, D]
            for project, norm in ((self.q, self.norm_q), (self.k, self.norm_k))
        )
        value = self.v(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        if cache is None:
            slots = causal_slot_mask(grid.slots, self.history if history is None else history)
            keys, values = key, value
        else:
            past_key, past_value, _ = cache.read(layer)
            keys, values = torch.cat((past_key, key), 2), torch.cat((past_value, value), 2)
            slots = torch.ones(grid.slots, keys.shape[2] // cache.slot_tokens, dtype=torch.bool)
        mask = torch.kron(slots, axial_mask(grid.blocks_hw))[None, None].to(x.device)
        out = block_sparse_attention(query, keys, values, mask, impl=self.impl)
        if cache is not None:
            cache.write(layer, key, value, block_means(key))
        return self.o(out.transpose(1, 2).flatten(2))
