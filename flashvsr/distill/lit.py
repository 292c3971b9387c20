"""One LightningModule per stage: they call the objectives, step the optimizers and log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from flashvsr.distill.batches import check_targets, draw_history, project, read_prompt, sample_clips, target_latents
from flashvsr.distill.flow_matching import Schedule, bind_conditions, flow_matching_loss, packed_flow_matching_loss
from flashvsr.distill.lit_one_step import OneStepOptimization, OneStepStage
from flashvsr.training.batches import Batch, split_kinds
from flashvsr.training.gradients import log_gradient_norms
from flashvsr.training.optimizers import MakeOptimizer, MakeScheduler, collect_trainable, configure_optimizer
from flashvsr.training.seeded import seeded_normal, seeded_uniform, shared_random
from flashvsr.training.sharding import freeze, shard_stage

__all__ = ["JointStage", "OneStepOptimization", "OneStepStage", "SparseCausalStage"]


class JointStage(LightningModule):
    """Stage 1: a many-step teacher with full attention, on videos and images packed in one sequence.

    A batch is ``{"hr", "lr": [B, 3, T, H, W] in [-1, 1], "seed": [B] int64}``, and optionally ``"image"``, another such
    dict with T = 1 and a size of its own. Each sample has its own noise level and its own LR projection.

    Args:
        dit: Transformer with full attention.
        projection: LR projection.
        vae: Gives the targets; frozen and not in checkpoints. None with an `encoder`.
        schedule: A :class:`~flashvsr.models.FlowSchedule`.
        optimizer: Makes the optimizer of everything in `dit` and `projection` that has ``requires_grad``.
        scheduler: Makes the schedule of its learning rate, stepped after every step; None keeps the rate.
        prompt: Text embedding `[1, L, text_dim]` or a file of it; None for a model without.
        image_weight: Of the loss of an image, where a clip counts 1.
        encoder: Gives the targets in place of a VAE, and sees the LR frames too, as a
            :class:`~flashvsr.decoders.ConditionalEncoder`; frozen and not in checkpoints.
        decoder: Decodes samples in validation; None takes the VAE. Frozen.
        validation_steps: Of the schedule's sampler in validation.

    Raises:
        ValueError: If nothing is to be trained, or unless one network gives the targets and one decodes them.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, stage 1.
    """

    prompt: Tensor | None

    def __init__(
        self,
        dit: nn.Module,
        projection: nn.Module,
        vae: nn.Module | None,
        schedule: Schedule,
        optimizer: MakeOptimizer,
        *,
        scheduler: MakeScheduler | None = None,
        prompt: Tensor | str | Path | None = None,
        image_weight: float = 1.0,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        validation_steps: int = 20,
    ) -> None:
        super().__init__()
        check_targets(vae, encoder, decoder)
        self.dit, self.projection, self.vae, self.encoder, self.decoder = dit, projection, vae, encoder, decoder
        self.schedule, self.optimizer, self.scheduler = schedule, optimizer, scheduler
        self.image_weight, self.validation_steps = image_weight, validation_steps
        self.register_buffer("prompt", read_prompt(prompt), persistent=False)
        freeze(self, ("vae", "encoder", "decoder"))
        collect_trainable(self._networks())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch: the weighted mean over its samples."""
        step = self.trainer.fit_loop.total_batch_idx
        drawn = [self._draw(kind, part, step) for kind, part in split_kinds(batch)]
        counts = [len(x0) for x0, *_ in drawn]
        if len(drawn) == 1:  # of one size: no need to pack them
            x0, noise, sigma, tokens = drawn[0]
            losses = flow_matching_loss(bind_conditions(self.dit, tokens, self.prompt), x0, noise, sigma, self.schedule)
        else:
            losses = self._packed_losses(drawn)
        weights = [
            weight for weight, count in zip((1.0, self.image_weight), counts, strict=False) for _ in range(count)
        ]
        weighted = [loss * weight for loss, weight in zip(losses.unbind(), weights, strict=True)]
        loss = torch.stack(weighted).sum() / sum(weights)
        self.log("train/flow", loss.detach(), batch_size=sum(counts))
        return loss

    def _draw(self, kind: str, part: Batch, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents of the truth, noise, noise levels and tokens of the LR frames."""
        x0 = target_latents(self, part)
        noise = seeded_normal(part["seed"], f"{kind} noise", step, size=x0.shape[1:])
        sigma = self.schedule.sigma(seeded_uniform(part["seed"], f"{kind} sigma", step))
        return x0, noise, sigma, project(self.projection, part["lr"])

    def _packed_losses(self, drawn: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
        """Losses of clips and images in one sequence."""
        x0, noise, sigma, tokens = zip(*drawn, strict=True)
        given = [sample for part in tokens for sample in part.unbind()]

        def predict(noisy: list[Tensor], timesteps: Tensor) -> list[Tensor]:
            dit: Any = self.dit  # any transformer that takes packed samples; a module promises nothing
            return dit.forward_packed(noisy, timesteps, given, prompt=self.prompt)

        latents, noises = ([sample for part in parts for sample in part.unbind()] for parts in (x0, noise))
        return packed_flow_matching_loss(predict, latents, noises, torch.cat(sigma), self.schedule)

    def prepare(self, batch: Batch) -> Batch:
        """Latents of the truth: a data module that repeats clips keeps them."""
        return {"latents": target_latents(self, batch)}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Sample the clips of a batch; images are passed over."""
        return sample_clips(self, batch, self.validation_steps)

    def configure_optimizers(self) -> Any:
        """One optimizer."""
        return configure_optimizer(self._networks(), self.optimizer, self.scheduler)

    def configure_model(self) -> None:
        """Shard the trained networks when the strategy has a device mesh."""
        shard_stage(self, self._networks())

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log gradient norms, before clipping."""
        log_gradient_norms(self, self._networks())

    def _networks(self) -> dict[str, nn.Module]:
        return {"dit": self.dit, "projection": self.projection}


class SparseCausalStage(LightningModule):
    """Stage 2: the teacher becomes sparse and causal; whole clips at once under a mask, no cache.

    A batch is that of :class:`JointStage`, of videos only.

    Args:
        dit: Transformer with sparse attention, and the weights of stage 1.
        projection: LR projection of stage 1.
        vae: Gives the targets; frozen and not in checkpoints. None with an `encoder`.
        schedule: A :class:`~flashvsr.models.FlowSchedule`.
        optimizer: Makes the optimizer of everything in `dit` and `projection` that has ``requires_grad``.
        scheduler: Makes the schedule of its learning rate; None keeps the rate.
        prompt: Text embedding `[1, L, text_dim]` or a file of it; None for a model without.
        random_history: Whether steps see random lengths of the past (:func:`~flashvsr.distill.draw_history`), or
            always the transformer's own.
        seed: Of those lengths, the same in all processes.
        encoder: Gives the targets in place of a VAE, and sees the LR frames too, as a
            :class:`~flashvsr.decoders.ConditionalEncoder`; frozen and not in checkpoints.
        decoder: Decodes samples in validation; None takes the VAE. Frozen.
        validation_steps: Of the schedule's sampler in validation, with the transformer's own history.

    Raises:
        ValueError: If nothing is to be trained, or unless one network gives the targets and one decodes them.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, stage 2, and its released code.
    """

    prompt: Tensor | None

    def __init__(
        self,
        dit: nn.Module,
        projection: nn.Module,
        vae: nn.Module | None,
        schedule: Schedule,
        optimizer: MakeOptimizer,
        *,
        scheduler: MakeScheduler | None = None,
        prompt: Tensor | str | Path | None = None,
        random_history: bool = True,
        seed: int = 0,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        validation_steps: int = 20,
    ) -> None:
        super().__init__()
        check_targets(vae, encoder, decoder)
        self.dit, self.projection, self.vae, self.encoder, self.decoder = dit, projection, vae, encoder, decoder
        self.schedule, self.optimizer, self.scheduler = schedule, optimizer, scheduler
        self.random_history, self.seed, self.validation_steps = random_history, seed, validation_steps
        self.register_buffer("prompt", read_prompt(prompt), persistent=False)
        freeze(self, ("vae", "encoder", "decoder"))
        collect_trainable(self._networks())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch: the mean over its samples."""
        step = self.trainer.fit_loop.total_batch_idx
        x0 = target_latents(self, batch)
        tokens = project(self.projection, batch["lr"])
        noise = seeded_normal(batch["seed"], "video noise", step, size=x0.shape[1:])
        sigma = self.schedule.sigma(seeded_uniform(batch["seed"], "video sigma", step))
        random = shared_random(self.seed, "history", step)
        history = draw_history(random, x0.shape[2] // 2) if self.random_history else None
        predict = bind_conditions(self.dit, tokens, self.prompt, history=history)
        loss = flow_matching_loss(predict, x0, noise, sigma, self.schedule).mean()
        self.log("train/flow", loss.detach(), batch_size=x0.shape[0])
        return loss

    def prepare(self, batch: Batch) -> Batch:
        """Latents of the truth: a data module that repeats clips keeps them."""
        return {"latents": target_latents(self, batch)}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Sample the clips of a batch."""
        return sample_clips(self, batch, self.validation_steps)

    def configure_optimizers(self) -> Any:
        """One optimizer."""
        return configure_optimizer(self._networks(), self.optimizer, self.scheduler)

    def configure_model(self) -> None:
        """Shard the trained networks when the strategy has a device mesh."""
        shard_stage(self, self._networks())

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log gradient norms, before clipping."""
        log_gradient_norms(self, self._networks())

    def _networks(self) -> dict[str, nn.Module]:
        return {"dit": self.dit, "projection": self.projection}
