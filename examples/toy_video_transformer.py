"""A video transformer of 60 lines on the sparse attention of flashvsr: a whole clip at once, or chunk by chunk.

    python examples/toy_video_transformer.py

It takes features of any height and width, pads them to whole blocks that take no part, and shows that a stream with a
cache of keys and values gives what the whole clip gives.
"""

import torch
from torch import Tensor, nn

from flashvsr.attention import (
    KVCache,
    LocalSparseAttention,
    TokenGrid,
    crop_from_blocks,
    pad_to_blocks,
    partition_blocks,
    rope_table,
    unpartition_blocks,
)


class ToyVideoTransformer(nn.Module):
    """Sparse attention and a feed-forward network, a few times over."""

    def __init__(self, dim: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.attention = nn.ModuleList(
            LocalSparseAttention(dim, heads, window_hw=(3, 3), sparse_ratio=0.05) for _ in range(layers)
        )
        self.ffn = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
            for _ in range(layers)
        )

    def new_cache(self, batch: int, height: int, width: int) -> KVCache:
        """The empty past of a stream of features `[batch, T, height, width, dim]`."""
        tokens = TokenGrid.padded(2, height, width).tokens  # a slot is two frames
        return KVCache(len(self.attention), self.attention[0].history, tokens, self.heads, self.head_dim, batch=batch)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """`[B, T, h, w, dim]` to the same: a whole clip, or the next frames of the stream of `cache`."""
        size = (x.shape[1], x.shape[2], x.shape[3])
        grid = TokenGrid.padded(*size, frame_offset=0 if cache is None else 2 * cache.slots_seen)
        rope = rope_table(grid, self.head_dim, order="block", device=x.device)
        padded, _ = pad_to_blocks(x)
        tokens = partition_blocks(padded)  # once at each end: all that is per token goes in any order
        for index, (attention, ffn) in enumerate(zip(self.attention, self.ffn, strict=True)):
            tokens = tokens + attention(tokens, grid, rope, cache=cache, layer=index)
            tokens = tokens + ffn(tokens)
        if cache is not None:
            cache.advance(grid.slots)
        return crop_from_blocks(unpartition_blocks(tokens, (grid.frames, grid.rows, grid.columns)), size)


@torch.no_grad()
def main() -> None:
    """Print how far a stream is from the whole clip."""
    torch.manual_seed(0)
    model, clip = ToyVideoTransformer(), torch.randn(1, 12, 20, 27, 64)  # 12 frames of 20 x 27 tokens
    whole, cache = model(clip), model.new_cache(1, 20, 27)
    streamed = torch.cat([model(chunk, cache) for chunk in clip.split([6, 2, 4], 1)], 1)  # 3 slots first, then any
    print(f"{streamed.shape[1]} frames in 3 chunks; largest difference {(streamed - whole).abs().max():.1e}")


if __name__ == "__main__":
    main()
