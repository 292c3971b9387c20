"""A sparse attention layer learns from a dense one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from flashvsr.attention.blocks import BLOCK_SHAPE, TokenGrid, partition_blocks, unpartition_blocks
from flashvsr.attention.distill import block_score_divergence, block_scores, output_error
from flashvsr.attention.masks import causal_slot_mask, window_mask
from flashvsr.attention.rope import rope_table
from flashvsr.training.gradients import log_gradient_norms
from flashvsr.training.optimizers import MakeOptimizer, MakeScheduler, configure_optimizer
from flashvsr.training.sharding import shard_stage


class AttentionDistillation(LightningModule):
    """Train a sparse layer to rank blocks, and to answer, as a dense layer does on the same tokens.

    A batch is ``{"tokens": [B, N, dim] in raster order, "grid": (frames, rows, columns)}``.

    Args:
        student: A :class:`~flashvsr.attention.LocalSparseAttention`.
        teacher: A layer of any order with as many heads, such as :class:`~flashvsr.attention.FullAttention`; frozen.
        optimizer: Makes the optimizer of everything in `student` that has ``requires_grad``.
        scheduler: Makes the schedule of its learning rate, stepped after every step; None keeps the rate.
        kl_weight: Of the divergence of the block scores, over the blocks that the student may see.
        mse_weight: Of the squared error of the output, relative to the size of the teacher's.
        start_from_teacher: Whether the student begins with the teacher's weights.

    Raises:
        ValueError: If the student is not sparse or the layers differ in their heads.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        optimizer: MakeOptimizer,
        *,
        scheduler: MakeScheduler | None = None,
        kl_weight: float = 1.0,
        mse_weight: float = 1.0,
        start_from_teacher: bool = False,
    ) -> None:
        super().__init__()
        if getattr(student, "order", None) != "block":
            raise ValueError(f"the student is a LocalSparseAttention, got {type(student).__name__}")
        if student.heads != teacher.heads:
            raise ValueError(f"student and teacher have as many heads, got {student.heads} and {teacher.heads}")
        self.student, self.teacher = student, teacher.requires_grad_(False).eval()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.kl_weight, self.mse_weight = kl_weight, mse_weight
        if start_from_teacher:
            student.load_state_dict(teacher.state_dict(), strict=True)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of one batch, the mean over its samples."""
        frames, rows, columns = map(int, batch["grid"])
        tokens, grid = batch["tokens"], TokenGrid(frames, rows, columns)
        with torch.no_grad():
            wanted, wanted_scores = self._run(self.teacher, tokens, grid)
        output, scores = self._run(self.student, tokens, grid)
        divergence = block_score_divergence(scores, wanted_scores, self._visible(grid).to(tokens.device))
        error = output_error(output, wanted)
        loss = (self.kl_weight * divergence + self.mse_weight * error).mean()
        for name, value in (("block_kl", divergence.mean()), ("output_mse", error.mean()), ("loss", loss)):
            self.log(f"train/{name}", value.detach(), batch_size=len(tokens))
        return loss

    def configure_optimizers(self) -> Any:
        """One optimizer, of the student."""
        return configure_optimizer({"student": self.student}, self.optimizer, self.scheduler)

    def configure_model(self) -> None:
        """Shard the student when the strategy has a device mesh."""
        shard_stage(self, {"student": self.student})

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norm, before clipping."""
        log_gradient_norms(self, {"student": self.student})

    def _run(self, layer: Any, tokens: Tensor, grid: TokenGrid) -> tuple[Tensor, Tensor]:
        """Output in raster order and block scores of a layer: first the output, for which FSDP gathers the weights."""
        size = (grid.frames, grid.rows, grid.columns)
        x = partition_blocks(tokens.unflatten(1, size)) if layer.order == "block" else tokens
        rope = rope_table(grid, tokens.shape[2] // layer.heads, order=layer.order, device=tokens.device)
        out = layer(x, grid, rope)
        if layer.order == "block":
            out = unpartition_blocks(out, size).flatten(1, 3)
        return out, block_scores(layer, x, grid, rope)

    def _visible(self, grid: TokenGrid) -> Tensor:
        student: Any = self.student
        slots = causal_slot_mask(grid.slots, student.history)
        selection = student.selection
        return torch.kron(slots, window_mask(grid.blocks_hw, selection.window_hw, boundary=selection.boundary))


class RandomTokens(LightningDataModule):
    """Seeded random tokens to train :class:`AttentionDistillation` on: a part that a block shares, and white noise.

    Args:
        dim: Channels of a token.
        grid: Frames, rows and columns, whole blocks (multiples of 2, 8 and 8).
        batch_size: Samples per batch.
        batches: Batches per epoch, in each process.
        seed: Of the first batch of the first process.

    Raises:
        ValueError: If the grid is not whole blocks.
    """

    def __init__(
        self, dim: int, grid: tuple[int, int, int] = (6, 16, 16), batch_size: int = 1, batches: int = 100, seed: int = 0
    ) -> None:
        super().__init__()
        size = TokenGrid(*grid)
        _ = size.slots, size.blocks_hw  # raise for a grid that is not whole blocks
        self.dim, self.grid, self.batch_size, self.batches, self.seed = dim, tuple(grid), batch_size, batches, seed

    def train_dataloader(self) -> DataLoader:
        """Ready batches; the seed of each is its place among those of all processes."""
        rank = 0 if self.trainer is None else self.trainer.global_rank
        return DataLoader(_Batches(self, self.seed + rank * self.batches), batch_size=None)


class _Batches(IterableDataset):
    def __init__(self, source: RandomTokens, first: int) -> None:
        self.source, self.first = source, first

    def __len__(self) -> int:
        return self.source.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        source = self.source
        blocks = [size // block for size, block in zip(source.grid, BLOCK_SHAPE, strict=True)]
        for index in range(source.batches):
            generator = torch.Generator().manual_seed(self.first + index)
            shared = torch.randn(source.batch_size, *blocks, source.dim, generator=generator)
            for axis, block in enumerate(BLOCK_SHAPE, start=1):
                shared = shared.repeat_interleave(block, axis)
            noise = torch.randn(shared.shape, generator=generator)
            yield {"tokens": (shared + noise).flatten(1, 3), "grid": source.grid}
