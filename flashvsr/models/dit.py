"""The video diffusion transformer of Wan2.1, with attention layers passed in and an optional stream state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flashvsr.attention import (
    KVCache,
    LocalSparseAttention,
    TokenGrid,
    partition_blocks,
    rope_table,
    unpartition_blocks,
)
from flashvsr.models.dit_blocks import DiTBlock, Head, linear_velocity, timestep_embedding
from flashvsr.models.dit_state import ChunkGraphs, DiTState, why_no_graphs
from flashvsr.models.host_blocks import HostBlocks
from flashvsr.models.parallel import Stage, StagedCache, join_caches, parts_of_cache, send
from flashvsr.models.patches import PATCH, chunk_grid, to_latents, to_tokens


class VideoDiT(nn.Module):
    """Diffusion transformer over video latents: predicts the velocity ``noise - x0``.

    Defaults are those of Wan2.1-1.3B; parameter names are the released ones.

    Args:
        dim: Channels of a token.
        layers: Blocks.
        heads: Attention heads.
        ffn_dim: Channels inside the feed-forward networks.
        channels: Latent channels, in and out.
        frequency_dim: Channels of the timestep's sinusoids.
        text_dim: Channels of a prompt token; None for a model without a prompt.
        eps: Of the norms.
        attention: Builds a self-attention layer from (dim, heads).
        preconditioned: Whether the network predicts only the part of the velocity that its noisy input does not give.
            From pure noise the latents are then just its output: a small network need not cancel the noise. False for
            released weights.
        activation_checkpointing: Whether a block's activations are computed again in the backward pass instead of kept.
            Without gradients, or in a stream, it changes nothing.

    Attributes:
        cache_gib: GiB on each device for keys and values of a stream; the layers beyond it lie in host memory, which is
            slower and changes no result. None for all on the device.
        host_blocks: Blocks whose weights lie in host memory, which is slower and changes no result. None for all on the
            device.
        cuts: First block of every stage but the first, see :func:`~flashvsr.models.parallel.spread`; empty on one
            device.

    Raises:
        ValueError: If the attention layers differ in the order of tokens or in their history.

    Reference:
        Wan2.1, https://arxiv.org/abs/2503.20314; FlashVSR, https://arxiv.org/abs/2510.12747; preconditioning,
        https://arxiv.org/abs/2206.00364, section 5.
    """

    def __init__(
        self,
        dim: int = 1536,
        layers: int = 30,
        heads: int = 12,
        ffn_dim: int = 8960,
        *,
        channels: int = 16,
        frequency_dim: int = 256,
        text_dim: int | None = 4096,
        eps: float = 1e-6,
        attention: Callable[[int, int], nn.Module] = LocalSparseAttention,
        preconditioned: bool = False,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.preconditioned = preconditioned
        self.activation_checkpointing = activation_checkpointing
        self.blocks: Any  # nn.ModuleList of DiTBlock, whose items type checkers take for plain modules
        self.heads, self.head_dim = heads, dim // heads
        self.channels, self.frequency_dim = channels, frequency_dim
        self.patch_embedding = nn.Conv3d(channels, dim, (1, PATCH, PATCH), (1, PATCH, PATCH))
        if text_dim is not None:
            self.text_embedding = nn.Sequential(
                nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
            )
        self.has_prompt = text_dim is not None
        self.time_embedding = nn.Sequential(nn.Linear(frequency_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(
            DiTBlock(dim, heads, ffn_dim, attention, self.has_prompt, eps) for _ in range(layers)
        )
        self.head = Head(dim, channels * PATCH**2, eps)
        self.order = self._shared("order")
        self.history = self._shared("history") if self.order == "block" else 0
        self.cache_gib: float | None = None
        self.host_blocks: HostBlocks | None = None
        self._spare: list[Tensor] = []  # host memory for keys and values, from one stream to the next
        self.cuts: tuple[int, ...] = ()

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        *,
        lr_tokens: Tensor | None = None,
        prompt: Tensor | None = None,
        state: DiTState | None = None,
        streaming: bool = True,
        history: int | None = None,
    ) -> tuple[Tensor, DiTState | None]:
        """Predict the velocity of one chunk of a stream, or of a whole sequence.

        Args:
            latents: `[B, channels, T, H/8, W/8]`, noisy. In a stream of a sparse model: up to 6 latent frames first,
                then 2 at a time, on a grid of whole blocks (H and W multiples of 128).
            timestep: `[B]`, 0 to 1000 (1000 * sigma).
            lr_tokens: `[B, N, dim]` of the LR projection, in raster order, added before the first block.
            prompt: Text embedding `[1 or B, L, text_dim]`; needed at the start of a stream by a model with a prompt;
                later chunks use the one in the state, whatever is passed.
            state: Of the previous chunk, consumed; None at the start.
            streaming: False for a whole sequence under the causal mask (sparse) or in full; no cache is allocated and
                the state returned is None.
            history: For a whole sequence of a sparse model, another history than its own (training draws it at random).

        Returns:
            Velocity `[B, channels, T, H/8, W/8]` and the new state.

        Raises:
            ValueError: If a size does not fit, or a prompt is missing or not taken.
            RuntimeError: If the state was consumed before.
        """
        grid = self._grid(latents, state, streaming)
        x = self._tokens(latents, lr_tokens)
        embedding, modulation = self._time(timestep, x.dtype)
        stages = self.stages()
        if state is None:
            cache = self._new_cache(stages, grid, x) if streaming else None
            context, graphs = self._context(prompt), None
        else:
            past = state.take()
            cache, context, graphs = past.cache, past.context, past.graphs
        if self.order == "block":
            x = partition_blocks(x.unflatten(1, (grid.frames, grid.rows, grid.columns)))
        recorded = graphs if cache is not None and graphs and why_no_graphs(self, x, cache) is None else None
        caches: Sequence[KVCache | None] = [None] * len(stages) if cache is None else parts_of_cache(cache)
        for number, (stage, part) in enumerate(zip(stages, caches, strict=True)):
            run = partial(self._run_blocks, stage, grid, part, context[stage.first : stage.stop], history)
            rope = rope_table(grid, self.head_dim, order=self.order, device=stage.device)
            inputs = (send(x, stage.device), rope, send(embedding, stage.device), send(modulation, stage.device))
            x = self.run_stage(stage, run, inputs, part, recorded[number] if recorded else None)
        if self.order == "block":
            x = unpartition_blocks(x, (grid.frames, grid.rows, grid.columns)).flatten(1, 3)
        velocity = self._velocity(x, grid, send(latents, x.device), send(timestep, x.device))
        if cache is None:
            return velocity, None
        cache.advance(grid.slots)
        graphs = graphs or [ChunkGraphs() for _ in stages]
        return velocity, DiTState(cache, grid.frame_offset + grid.frames, context, graphs)

    def stages(self) -> list[Stage]:
        """The blocks by the device they lie on, in order: one stage, unless there are :attr:`cuts`."""
        if self.host_blocks is not None:
            return [Stage(0, len(self.blocks), self.host_blocks.device)]
        edges = (0, *self.cuts, len(self.blocks))
        return [Stage(a, b, self.blocks[a].modulation.device) for a, b in pairwise(edges)]

    @property
    def spare_bytes(self) -> int:
        """Host memory that the last stream left for the keys and values of the next."""
        return sum(pairs.nbytes for pairs in self._spare)

    def _weights_of(self, block: int) -> AbstractContextManager[None]:
        """Have the weights of a block where it runs, meanwhile."""
        return nullcontext() if self.host_blocks is None else self.host_blocks.lend(block)

    def run_stage(
        self,
        stage: Stage,
        run: Callable[..., Tensor],
        inputs: tuple[Tensor, ...],
        cache: KVCache | None,
        graphs: ChunkGraphs | None,
    ) -> Tensor:
        """Pass tokens through the blocks of one device, recorded if there are `graphs`; a place to time them at."""
        if graphs is None or cache is None:
            return run(*inputs)
        x = graphs.run(cache, run, *inputs)
        # On its way to another device it would be overwritten by the next chunk.
        return x if stage.stop == len(self.blocks) else x.clone()

    def _run_blocks(
        self,
        stage: Stage,
        grid: TokenGrid,
        cache: KVCache | None,
        context: Sequence[tuple[Tensor, Tensor]],
        history: int | None,
        x: Tensor,
        rope: Tensor,
        embedding: Tensor,
        modulation: Tensor,
    ) -> Tensor:
        """Pass tokens through the blocks of one stage, and through the head if it is the last."""
        for index, block in enumerate(self.blocks[stage.first : stage.stop]):
            arguments: dict[str, Any] = {}
            if self.order == "block":
                arguments = {"cache": cache, "layer": index, "history": history}

            def attend(layer: nn.Module, y: Tensor, arguments: dict[str, Any] = arguments) -> Tensor:
                return layer(y, grid, rope, **arguments)

            with self._weights_of(stage.first + index):
                x = self._block(block, cache is None, x, modulation, attend, context[index] if context else None, None)
        return self.head(x, embedding, None) if stage.stop == len(self.blocks) else x

    def forward_packed(
        self,
        latents: Sequence[Tensor],
        timesteps: Tensor,
        lr_tokens: Sequence[Tensor | None],
        *,
        prompt: Tensor | None = None,
    ) -> list[Tensor]:
        """Predict the velocities of samples of different sizes, packed in one sequence.

        Args:
            latents: Samples `[channels, T, H/8, W/8]`, each with its own grid and its own RoPE origin; an image has T =
                1.
            timesteps: `[samples]`, 0 to 1000.
            lr_tokens: `[N, dim]` of each sample in raster order, or None.
            prompt: Text embedding `[1, L, text_dim]`, for all samples.

        Returns:
            Velocities, shaped as `latents`.

        Raises:
            ValueError: If the model's attention is not full attention, or the lists differ in length.
        """
        if self.order != "raster":
            raise ValueError("packed samples need full attention; build the model with attention=FullAttention")
        if not len(latents) == len(lr_tokens) == len(timesteps):
            raise ValueError(
                f"one timestep and one entry of lr_tokens for each of {len(latents)} samples, "
                f"got {len(timesteps)} and {len(lr_tokens)}"
            )
        grids = [self._grid(sample[None], None, streaming=False) for sample in latents]
        lengths = [grid.tokens for grid in grids]
        parts = [
            self._tokens(sample[None], None if lr is None else lr[None])
            for sample, lr in zip(latents, lr_tokens, strict=True)
        ]
        x = torch.cat(parts, 1)
        segment = torch.repeat_interleave(
            torch.arange(len(grids), device=x.device), torch.tensor(lengths, device=x.device), output_size=sum(lengths)
        )
        tables = {grid: rope_table(grid, self.head_dim, device=x.device) for grid in set(grids)}
        rope = torch.cat([tables[grid] for grid in grids])
        embedding, modulation = self._time(timesteps, x.dtype)
        context = self._context(prompt)
        for index, block in enumerate(self.blocks):
            x = self._block(
                block,
                True,
                x,
                modulation,
                lambda layer, y: layer(y, grids[0], rope, lengths=lengths),
                context[index] if context else None,
                segment,
            )
        out = self.head(x, embedding, segment).split(lengths, 1)
        return [
            self._velocity(part, grid, sample[None], timestep[None])[0]
            for part, grid, sample, timestep in zip(out, grids, latents, timesteps, strict=True)
        ]

    def _block(self, block: nn.Module, whole: bool, *arguments: Any) -> Tensor:
        if self.activation_checkpointing and whole and torch.is_grad_enabled():
            return checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
        return block(*arguments)

    def _shared(self, name: str) -> Any:
        found = {getattr(block.self_attn, name) for block in self.blocks}
        if len(found) != 1:
            raise ValueError(f"the attention layers of one model have the same {name}, got {sorted(found)}")
        return found.pop()

    def _grid(self, latents: Tensor, state: DiTState | None, streaming: bool) -> TokenGrid:
        streams = self.order == "block"
        return chunk_grid(latents, state, channels=self.channels, streams=streams, streaming=streaming)

    def _tokens(self, latents: Tensor, lr_tokens: Tensor | None) -> Tensor:
        """`[B, N, dim]`, raster order."""
        x = to_tokens(latents, self.patch_embedding)
        if lr_tokens is None:
            return x
        if lr_tokens.shape != x.shape:
            raise ValueError(f"lr_tokens are {list(x.shape)}, like the tokens, got {list(lr_tokens.shape)}")
        return x + lr_tokens

    def _time(self, timestep: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Embed: `[B, dim]` for the head and `[B, 6, dim]` for the blocks."""
        embedding = self.time_embedding(timestep_embedding(timestep, self.frequency_dim).to(dtype))
        return embedding, self.time_projection(embedding).unflatten(1, (6, -1))

    def _context(self, prompt: Tensor | None) -> list[tuple[Tensor, Tensor]]:
        if (prompt is not None) != self.has_prompt:
            raise ValueError(
                "this model attends to a prompt; pass its embedding [1, L, text_dim]"
                if self.has_prompt
                else "this model was built without a prompt (text_dim=None) and takes none"
            )
        if prompt is None:
            return []
        embedded, context = self.text_embedding(prompt), []
        for stage in self.stages():
            sent = send(embedded, stage.device)
            for index in range(stage.first, stage.stop):
                with self._weights_of(index):
                    context.append(self.blocks[index].cross_attn.project_context(sent))
        return context

    def _new_cache(self, stages: Sequence[Stage], grid: TokenGrid, x: Tensor) -> KVCache | StagedCache:
        sizes = (self.history, grid.tokens // grid.slots, self.heads, self.head_dim)
        options: dict[str, Any] = {"batch": x.shape[0], "dtype": x.dtype, "device_gib": self.cache_gib}
        options["spare"] = self._spare if len(stages) == 1 else None
        return join_caches([KVCache(s.stop - s.first, *sizes, device=s.device, **options) for s in stages])

    def _velocity(self, x: Tensor, grid: TokenGrid, latents: Tensor, timestep: Tensor) -> Tensor:
        """`[B, channels, T, H/8, W/8]` of what the head gives."""
        velocity = to_latents(x, grid)
        if not self.preconditioned:
            return velocity
        return velocity + linear_velocity(timestep / 1000).view(-1, 1, 1, 1, 1).to(velocity.dtype) * latents
