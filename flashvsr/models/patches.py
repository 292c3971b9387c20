"""Latents as tokens: which sizes fit, and the way there and back."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear

from flashvsr.attention import BLOCK_SHAPE, TokenGrid
from flashvsr.attention.select import FIRST_SLOTS
from flashvsr.models.dit_state import DiTState

PATCH = 2
"""Latent cells per token along rows and columns."""


def chunk_grid(latents: Tensor, state: DiTState | None, *, channels: int, streams: bool, streaming: bool) -> TokenGrid:
    """Check the sizes of a chunk, on the host, and place it in its stream.

    Args:
        latents: `[B, channels, T, H/8, W/8]`.
        state: Of the stream; None at its start and for a whole sequence.
        channels: That the network takes.
        streams: Whether its attention can stream.
        streaming: Whether this is a chunk of a stream, and no whole sequence.

    Raises:
        ValueError: If a size does not fit the network or the stream.
        RuntimeError: If the state was consumed before.
    """
    frames, height, width = latents.shape[2:]
    if latents.shape[1] != channels or height % PATCH or width % PATCH:
        raise ValueError(f"latents are [B, {channels}, T, H/8, W/8] with even H/8 and W/8, got {list(latents.shape)}")
    if state is not None:
        state.check_fresh()
    grid = TokenGrid(frames, height // PATCH, width // PATCH, 0 if state is None else state.latents_seen)
    if not streaming:
        if state is not None:
            raise ValueError("a whole sequence (streaming=False) takes no state")
        return grid
    if not streams:
        raise ValueError("a model with full attention does not stream; pass streaming=False and a whole clip")
    most = FIRST_SLOTS if state is None else 1
    if grid.slots > most:
        raise ValueError(
            f"a chunk {'at the start' if state is None else 'of a running stream'} holds at most "
            f"{most * BLOCK_SHAPE[0]} latent frames, got {frames}"
        )
    if state is not None:
        held, slot_tokens = state.cache.batch, state.cache.slot_tokens
        if (latents.shape[0], grid.tokens // grid.slots) != (held, slot_tokens):
            raise ValueError(
                f"the state is of {held} samples with {slot_tokens} tokens per slot, latents are "
                f"{list(latents.shape)}; start a new stream with state=None when either changes"
            )
    return grid


def to_tokens(latents: Tensor, embedding: nn.Conv3d) -> Tensor:
    """Cut into `[B, N, dim]`, raster order; a convolution whose kernel is its stride is linear over patches."""
    patches = rearrange(latents, "b c t (h p) (w q) -> b (t h w) (c p q)", p=PATCH, q=PATCH)
    return linear(patches, embedding.weight.flatten(1), embedding.bias)


def to_latents(x: Tensor, grid: TokenGrid) -> Tensor:
    """From the head's output `[B, N, PATCH^2 * channels]` to `[B, channels, T, H/8, W/8]`."""
    sizes = {"t": grid.frames, "h": grid.rows, "w": grid.columns, "p": PATCH, "q": PATCH}
    return rearrange(x, "b (t h w) (p q c) -> b c t (h p) (w q)", **sizes)
