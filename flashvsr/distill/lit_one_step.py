"""The LightningModule of the one-step stage."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from flashvsr.distill.adversarial import hinge_discriminator_loss, hinge_generator_loss
from flashvsr.distill.batches import project, read_prompt, target_frames, trained, truth_latents
from flashvsr.distill.flow_matching import Schedule
from flashvsr.distill.one_step import OneStepObjective, Reconstruction, Window
from flashvsr.distill.stage import (
    MakeOptimizer,
    MakeScheduler,
    Networks,
    log_gradient_norms,
    optimizer_of,
    sample_clips,
    shard,
    velocity_of,
)
from flashvsr.training.gradients import clip_gradients, gradient_norm
from flashvsr.training.seeded import seeded_normal, shared_random
from flashvsr.training.sharding import freeze


class OneStepStage(LightningModule):
    """Stage 3: one step from noise to latents, by distribution matching and reconstruction.

    Every batch updates the fake score on what the generator makes; every `generator_every`-th updates the generator
    first. With ``dmd_weight=0`` there are no scores and every batch updates the generator. Optimization is manual:
    Lightning counts the steps of all optimizers, ``max_steps`` too, and ``gradient_clip`` here replaces the Trainer's.
    With DDP use the strategy ``ddp_find_unused_parameters_true``. A batch is that of
    :class:`~flashvsr.distill.lit.SparseCausalStage`; it also needs no VAE without `latent_weight`.

    Args:
        dit: Generator: sparse attention, and the weights of stage 2. Its parameters with ``requires_grad`` are trained.
        projection: LR projection of stage 2, trained likewise.
        score: Teacher of stage 1, frozen. A copy, trained where the teacher has ``requires_grad``, is the fake score.
            None with ``dmd_weight=0``.
        score_projection: LR projection of stage 1, frozen; the fake score gets a copy too.
        vae: Latents of the truth, for `latent_weight`; frozen.
        decoder: Any decoder; trained by the reconstruction loss if `train_decoder`, else frozen.
        schedule: A :class:`~flashvsr.models.FlowSchedule`.
        reconstruction: A :class:`~flashvsr.distill.ReconstructionLoss`.
        generator_optimizer: Makes the optimizer of generator, projection and decoder.
        fake_optimizer: Makes the optimizer of the fake score and its projection.
        generator_scheduler: Makes the schedule of its learning rate, in its own steps; None keeps the rate.
        fake_scheduler: Likewise.
        prompt: Text embedding `[1, L, text_dim]` or a file of it; None for models without.
        generator_every: Fake updates per generator update.
        train_decoder: Whether the decoder learns too; ``"latents"`` for the weights of its latents alone, where they
            are a tensor of their own (as in a residual :class:`~flashvsr.decoders.TinyConditionalDecoder`): beside a
            finished decoder the transformer can only add.
        dmd_weight: Of distribution matching.
        reconstruction_weight: Of the decoded window.
        latent_weight: Of the squared error to the latents of the truth.
        decoded_latents: Consecutive latents decoded per step.
        decode_crop: Side of the decoded square in latent cells; None for whole frames.
        sigma_range: Noise levels at which the scores are asked.
        discriminator: Frames to scores `[B, patches]`, for an adversarial term; None for none.
        discriminator_optimizer: Makes its optimizer.
        adversarial_weight: Of the generator's hinge loss.
        gradient_clip: Largest gradient norm per optimizer; None does not clip.
        seed: Of the choices that all processes share.

    Raises:
        ValueError: If a network or optimizer that a weight asks for is missing, or nothing is to be trained.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, stage 3; DMD2, https://arxiv.org/abs/2405.14867.
    """

    prompt: Tensor | None

    def __init__(
        self,
        dit: nn.Module,
        projection: nn.Module,
        score: nn.Module | None,
        score_projection: nn.Module | None,
        vae: nn.Module | None,
        decoder: nn.Module,
        schedule: Schedule,
        reconstruction: nn.Module,
        generator_optimizer: MakeOptimizer,
        fake_optimizer: MakeOptimizer | None = None,
        *,
        generator_scheduler: MakeScheduler | None = None,
        fake_scheduler: MakeScheduler | None = None,
        prompt: Tensor | str | Path | None = None,
        generator_every: int = 5,
        train_decoder: bool | Literal["latents"] = False,
        dmd_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        latent_weight: float = 0.0,
        decoded_latents: int = 2,
        decode_crop: int | None = None,
        sigma_range: tuple[float, float] = (0.02, 0.98),
        discriminator: nn.Module | None = None,
        discriminator_optimizer: MakeOptimizer | None = None,
        adversarial_weight: float = 0.0,
        gradient_clip: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        needs = {
            "dmd_weight": (dmd_weight, (score, score_projection, fake_optimizer), "score(s) and fake_optimizer"),
            "latent_weight": (latent_weight, (vae,), "vae"),
            "adversarial_weight": (
                adversarial_weight,
                (discriminator, discriminator_optimizer),
                "discriminator and its optimizer",
            ),
        }
        for name, (weight, parts, said) in needs.items():
            if weight and any(part is None for part in parts):
                raise ValueError(f"{name}={weight} needs {said}; pass them or set it to 0")
        if generator_every < 1:
            raise ValueError(f"generator_every is at least 1, got {generator_every}")
        self.automatic_optimization = False
        self.dit, self.projection, self.vae, self.decoder = dit, projection, vae, decoder
        self.score, self.score_projection = (score, score_projection) if dmd_weight else (None, None)
        self.fake_score, self.fake_projection = deepcopy(self.score), deepcopy(self.score_projection)
        self.discriminator = discriminator if adversarial_weight else None
        self.schedule, self.reconstruction = schedule, reconstruction
        self.objective = OneStepObjective(
            schedule, cast(Reconstruction, reconstruction), dmd_weight, reconstruction_weight, latent_weight,
            decoded_latents, decode_crop, (sigma_range[0], sigma_range[1]),
        )  # fmt: skip
        self.makers = {
            "generator": (generator_optimizer, generator_scheduler),
            "fake": (fake_optimizer, fake_scheduler),
            "discriminator": (discriminator_optimizer, None),
        }
        self.generator_every, self.train_decoder = generator_every, train_decoder
        self.adversarial_weight, self.gradient_clip, self.seed = adversarial_weight, gradient_clip, seed
        self.register_buffer("prompt", read_prompt(prompt), persistent=False)
        frozen = ("vae", "score", "score_projection", "reconstruction")
        freeze(self, frozen if train_decoder else (*frozen, "decoder"))
        if train_decoder == "latents":
            for name, parameter in decoder.named_parameters():
                parameter.requires_grad_("latents" in name.split("."))
            if not any(parameter.requires_grad for parameter in decoder.parameters()):
                raise ValueError(
                    f"train_decoder='latents': the {type(decoder).__name__} has no weights of latents alone"
                )
        for networks in self._networks().values():
            trained(networks)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Update the generator when it is its turn, then the fake score and the discriminator."""
        step = self.trainer.fit_loop.total_batch_idx
        lr, hr = target_frames(batch)
        every = self.generator_every if self.objective.dmd_weight else 1
        if step % every == 0:
            x = self._update_generator(batch, lr, hr, step)
        else:
            with torch.no_grad():
                x = self._generate(batch, step)
        if self.fake_score is not None and self.fake_projection is not None:
            predict = velocity_of(self.fake_score, project(self.fake_projection, batch["lr"]), self.prompt)
            loss = self.objective.fake_loss(x, predict, batch["seed"], step).mean()
            self.log("train/fake_flow", loss.detach(), batch_size=lr.shape[0])
            self._update("fake", loss)

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Latents of the truth, where the loss compares with them: a data module that repeats clips keeps them."""
        if self.vae is None or not self.objective.latent_weight:
            return {}
        return {"latents": truth_latents(self.vae, batch)}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Make the clips of a batch in one step."""
        return sample_clips(self, batch, steps=1)

    def configure_optimizers(self) -> Any:
        """One optimizer for each of generator, fake score and discriminator, as far as there are such."""
        return tuple(
            optimizer_of(cast(MakeOptimizer, self.makers[name][0]), self.makers[name][1], networks)
            for name, networks in self._networks().items()
        )

    def configure_model(self) -> None:
        """Shard the trained networks and the teacher when the strategy has a device mesh."""
        for networks in self._networks().values():
            shard(self, networks)
        if self.score is not None and self.score_projection is not None:
            shard(self, {"score": self.score, "score_projection": self.score_projection})

    def _networks(self) -> dict[str, Networks]:
        """What each optimizer trains, in the order of the optimizers."""
        generator = {"dit": self.dit, "projection": self.projection}
        if self.train_decoder:
            generator["decoder"] = self.decoder
        all_of = {"generator": generator}
        if self.fake_score is not None and self.fake_projection is not None:
            all_of["fake"] = {"fake_score": self.fake_score, "fake_projection": self.fake_projection}
        if self.discriminator is not None:
            all_of["discriminator"] = {"discriminator": self.discriminator}
        return all_of

    def _generate(self, batch: dict[str, Any], step: int) -> Tensor:
        lr = batch["lr"]
        cells = (cast(int, self.dit.channels), (lr.shape[2] - 1) // 4, lr.shape[3] // 8, lr.shape[4] // 8)
        noise = seeded_normal(batch["seed"], "generator", step, size=cells).to(lr.dtype)
        return self.objective.generate(velocity_of(self.dit, project(self.projection, lr), self.prompt), noise)

    def _update_generator(self, batch: dict[str, Any], lr: Tensor, hr: Tensor, step: int) -> Tensor:
        """Step generator, projection and decoder; return the latents, without gradient."""
        x, objective, seeds = self._generate(batch, step), self.objective, batch["seed"]
        losses: dict[str, tuple[float, Tensor]] = {}
        if self.score is not None:
            real, fake = self._scores(batch["lr"])
            losses["dmd"] = objective.dmd_weight, objective.matching_loss(x, real, fake, seeds, step)
        if objective.latent_weight and self.vae is not None:
            losses["latent"] = objective.latent_weight, objective.latent_loss(x, truth_latents(self.vae, batch))
        frames: tuple[Tensor, Tensor] | None = None
        if objective.reconstruction_weight or self.discriminator is not None:
            sr, window = objective.decode(self.decoder, x, lr, shared_random(self.seed, "window", step))
            frames = sr, window.cut_frames(hr)[:, :, window.frames]
            losses |= self._picture_losses(sr, hr, window)
        loss = sum(weight * value.mean() for weight, value in losses.values())
        for name, (_, value) in losses.items():
            self.log(f"train/{name}", value.detach().mean(), batch_size=lr.shape[0])
        self._update("generator", cast(Tensor, loss))
        if frames is not None and self.discriminator is not None:
            self._update_discriminator(*frames)
        return x.detach()

    def _scores(self, lr: Tensor) -> tuple[Any, Any]:
        pairs = ((self.score, self.score_projection), (self.fake_score, self.fake_projection))
        with torch.no_grad():
            real, fake = (
                velocity_of(cast(nn.Module, score), project(cast(nn.Module, projection), lr), self.prompt)
                for score, projection in pairs
            )
        return real, fake

    def _picture_losses(self, sr: Tensor, hr: Tensor, window: Window) -> dict[str, tuple[float, Tensor]]:
        losses: dict[str, tuple[float, Tensor]] = {}
        if self.objective.reconstruction_weight:
            loss, parts = self.objective.reconstruction_loss(sr, hr, window)
            losses["reconstruction"] = self.objective.reconstruction_weight, loss
            for name, part in parts.items():
                self.log(f"train/{name}", part.mean(), batch_size=sr.shape[0])
        if self.discriminator is not None:
            losses["adversarial"] = self.adversarial_weight, hinge_generator_loss(self.discriminator(sr))
        return losses

    def _update_discriminator(self, sr: Tensor, hr: Tensor) -> None:
        discriminator = cast(nn.Module, self.discriminator)
        loss = hinge_discriminator_loss(discriminator(hr), discriminator(sr.detach())).mean()
        self.log("train/discriminator", loss.detach(), batch_size=sr.shape[0])
        self._update("discriminator", loss)

    def _update(self, name: str, loss: Tensor) -> None:
        """Step one optimizer and its schedule."""
        networks = self._networks()
        index, parameters = list(networks).index(name), trained(networks[name])
        optimizers = self.optimizers()
        optimizer = optimizers[index] if isinstance(optimizers, list) else optimizers
        optimizer.zero_grad()
        self.manual_backward(loss)
        if name == "generator" and self.discriminator is not None:
            self.discriminator.zero_grad()  # requires_grad cannot be switched off meanwhile: FSDP does not follow it
        log_gradient_norms(self, networks[name])
        if self.gradient_clip is not None:
            clip_gradients(cast(Tensor, gradient_norm(parameters)), parameters, self.gradient_clip)
        optimizer.step()
        for config in self.trainer.lr_scheduler_configs:
            if config.scheduler.optimizer is optimizer.optimizer:
                config.scheduler.step()  # type: ignore[call-arg]  # none here waits for a metric
