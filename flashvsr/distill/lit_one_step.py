"""The LightningModule of the one-step stage."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from flashvsr.distill.adversarial import hinge_discriminator_loss, hinge_generator_loss
from flashvsr.distill.batches import latent_shape, project, read_prompt, sample_clips, target_latents
from flashvsr.distill.flow_matching import Predict, bind_conditions
from flashvsr.distill.one_step import OneStepObjective, Window
from flashvsr.training.batches import Batch, target_frames
from flashvsr.training.gradients import clip_gradients, gradient_norm, log_gradient_norms
from flashvsr.training.optimizers import MakeOptimizer, MakeScheduler, collect_trainable, configure_optimizer
from flashvsr.training.seeded import seeded_normal, shared_random
from flashvsr.training.sharding import freeze, shard_stage

Networks = dict[str, nn.Module]


@dataclass(frozen=True)
class OneStepOptimization:
    """How the one-step stage steps its optimizers.

    Args:
        generator_optimizer: Makes the optimizer of generator, projection and decoder.
        fake_optimizer: Makes the optimizer of the fake score and its projection; None without distribution matching.
        discriminator_optimizer: Makes the optimizer of the discriminator; None without one.
        generator_scheduler: Makes the schedule of the generator's learning rate, in steps of the Trainer, which counts
            those of all optimizers: a schedule of ``max_steps`` ends with the run. None keeps the rate.
        fake_scheduler: Likewise, of the fake score.
        generator_every: Fake updates per generator update; without distribution matching every batch updates the
            generator.
        gradient_clip: Largest gradient norm per optimizer; None does not clip.

    Raises:
        ValueError: If a number is out of range.
    """

    generator_optimizer: MakeOptimizer
    fake_optimizer: MakeOptimizer | None = None
    discriminator_optimizer: MakeOptimizer | None = None
    generator_scheduler: MakeScheduler | None = None
    fake_scheduler: MakeScheduler | None = None
    generator_every: int = 5
    gradient_clip: float | None = None

    def __post_init__(self) -> None:
        if self.generator_every < 1:
            raise ValueError(f"generator_every is at least 1, got {self.generator_every}")
        if self.gradient_clip is not None and self.gradient_clip <= 0:
            raise ValueError(f"gradient_clip is positive or None, got {self.gradient_clip}")


class OneStepStage(LightningModule):
    """Stage 3: one step from noise to latents, by distribution matching and reconstruction.

    Every batch updates the fake score on what the generator makes; every `generator_every`-th updates the generator
    first. With ``dmd_weight=0`` there are no scores and every batch updates the generator. Optimization is manual:
    Lightning counts the steps of all optimizers, ``max_steps`` too, and ``gradient_clip`` here replaces the Trainer's.
    With DDP use the strategy ``ddp_find_unused_parameters_true``. A batch is that of
    :class:`~flashvsr.distill.lit.SparseCausalStage`; it also needs no VAE without `latent_weight`.

    Args:
        dit: Generator: sparse attention, and the weights of stage 2. Its parameters with ``requires_grad`` are trained.
            None for the control: the decoder alone, on latents of zero, with the same losses on its frames.
        projection: LR projection of stage 2, trained likewise; None without a transformer.
        decoder: Any decoder; trained by the reconstruction loss if `train_decoder`, else frozen.
        objective: What the generator is trained for: losses, their weights, and the noise schedule.
        optimization: How: optimizers, their schedules, how often each is stepped.
        score: Teacher of stage 1, frozen. A copy, trained where the teacher has ``requires_grad``, is the fake score.
            None with ``dmd_weight=0``.
        score_projection: LR projection of stage 1, frozen; the fake score gets a copy too.
        vae: Latents of the truth, for `latent_weight`; frozen.
        encoder: Makes them in place of a VAE, and sees the LR frames too, as a
            :class:`~flashvsr.decoders.ConditionalEncoder`; frozen.
        discriminator: Frames to scores `[B, patches]`, for `adversarial_weight`; None for none.
        prompt: Text embedding `[1, L, text_dim]` or a file of it; None for models without.
        train_decoder: Whether the decoder is trained too; ``"latents"`` for the weights of its latents alone, where
            they are a tensor of their own (as in a residual :class:`~flashvsr.decoders.TinyConditionalDecoder`): beside
            a finished decoder the transformer can only add.
        seed: Of the choices that all processes share.

    Raises:
        ValueError: If a network or optimizer that a weight asks for is missing, or nothing is to be trained; when
            training starts with precision 16-mixed.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, stage 3; DMD2, https://arxiv.org/abs/2405.14867.
    """

    prompt: Tensor | None

    def __init__(
        self,
        dit: nn.Module | None,
        projection: nn.Module | None,
        decoder: nn.Module,
        objective: OneStepObjective,
        optimization: OneStepOptimization,
        *,
        score: nn.Module | None = None,
        score_projection: nn.Module | None = None,
        vae: nn.Module | None = None,
        encoder: nn.Module | None = None,
        discriminator: nn.Module | None = None,
        prompt: Tensor | str | Path | None = None,
        train_decoder: bool | Literal["latents"] = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.dit, self.projection, self.decoder, self.vae, self.encoder = dit, projection, decoder, vae, encoder
        self.objective, self.optimization = objective, optimization
        self.schedule, self.reconstruction = objective.schedule, objective.reconstruction
        self.score, self.score_projection = (score, score_projection) if objective.dmd_weight else (None, None)
        self.fake_score, self.fake_projection = deepcopy(self.score), deepcopy(self.score_projection)
        self.discriminator = discriminator if objective.adversarial_weight else None
        self.train_decoder, self.seed = train_decoder, seed
        self.register_buffer("prompt", read_prompt(prompt), persistent=False)
        self._check_parts()
        frozen = ["vae", "encoder", "score", "score_projection"]
        frozen += ["reconstruction"] if isinstance(self.reconstruction, nn.Module) else []
        frozen += [] if train_decoder else ["decoder"]
        freeze(self, frozen)
        if train_decoder == "latents":
            _train_latents_alone(decoder)
        for networks in self._networks().values():
            collect_trainable(networks)

    def setup(self, stage: str) -> None:
        """Refuse what would clip and log gradients that a scaler has multiplied."""
        if stage == "fit" and self.trainer.precision == "16-mixed":
            raise ValueError("OneStepStage does not train in 16-mixed, whose gradients are scaled: use bf16-mixed")

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the generator when it is its turn, then the discriminator and the fake score."""
        step, before = self.trainer.fit_loop.total_batch_idx, self.trainer.global_step
        every = self.optimization.generator_every if self.fake_score is not None else 1
        if step % every == 0:
            x = self._update_generator(batch, step)
        else:
            with torch.no_grad():
                x = self._generate(batch, step)
        if self.fake_score is not None:
            self._update_fake(x, batch, step)
        for config in self.trainer.lr_scheduler_configs:
            for _ in range(self.trainer.global_step - before):
                config.scheduler.step()  # type: ignore[call-arg]  # none here waits for a metric

    def prepare(self, batch: Batch) -> Batch:
        """Latents of the truth, where the loss compares with them: a data module that repeats clips keeps them."""
        return {"latents": target_latents(self, batch)} if self.objective.latent_weight else {}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Make the clips of a batch in one step."""
        return sample_clips(self, batch, steps=1)

    def configure_optimizers(self) -> Any:
        """One optimizer for each of generator, fake score and discriminator, as far as there are such."""
        said = self.optimization
        makers = {
            "generator": (said.generator_optimizer, said.generator_scheduler),
            "fake": (said.fake_optimizer, said.fake_scheduler),
            "discriminator": (said.discriminator_optimizer, None),
        }
        return tuple(
            configure_optimizer(networks, cast(MakeOptimizer, makers[name][0]), makers[name][1])
            for name, networks in self._networks().items()
        )

    def configure_model(self) -> None:
        """Shard the trained networks and the teacher when the strategy has a device mesh."""
        for networks in self._networks().values():
            shard_stage(self, networks)
        if self.score is not None and self.score_projection is not None:
            shard_stage(self, {"score": self.score, "score_projection": self.score_projection})

    def _check_parts(self) -> None:
        """Refuse a weight without the networks and the optimizer that it asks for."""
        said = self.optimization
        if (self.dit is None) != (self.projection is None):
            raise ValueError("a transformer and its projection belong together: give both, or neither for the control")
        if self.dit is None and (self.objective.dmd_weight or self.objective.latent_weight):
            raise ValueError(
                "without a transformer there are no latents to be trained: set dmd_weight and latent_weight to 0, got "
                f"{self.objective.dmd_weight} and {self.objective.latent_weight}"
            )
        if self.dit is None and self.train_decoder is not True:
            raise ValueError(f"without a transformer only the decoder can learn: train_decoder={self.train_decoder!r}")
        if self.vae is not None and self.encoder is not None:
            raise ValueError("latents of the truth come from a vae or from an encoder: give one of them")
        scores = (self.score, self.score_projection, said.fake_optimizer)
        needs = {
            "dmd_weight": ("score, score_projection and fake_optimizer", *scores),
            "latent_weight": ("vae or encoder", self.vae if self.encoder is None else self.encoder),
            "adversarial_weight": (
                "discriminator and discriminator_optimizer",
                self.discriminator,
                said.discriminator_optimizer,
            ),
        }
        for name, (names, *parts) in needs.items():
            weight = getattr(self.objective, name)
            if weight and any(part is None for part in parts):
                raise ValueError(f"{name}={weight} needs {names}; pass them or set it to 0")

    def _networks(self) -> dict[str, Networks]:
        """What each optimizer trains, in the order of the optimizers."""
        generator: Networks = {}
        if self.dit is not None and self.projection is not None:
            generator |= {"dit": self.dit, "projection": self.projection}
        if self.train_decoder:
            generator["decoder"] = self.decoder
        all_of = {"generator": generator}
        if self.fake_score is not None and self.fake_projection is not None:
            all_of["fake"] = {"fake_score": self.fake_score, "fake_projection": self.fake_projection}
        if self.discriminator is not None:
            all_of["discriminator"] = {"discriminator": self.discriminator}
        return all_of

    def _generate(self, batch: Batch, step: int) -> Tensor:
        """Latents of the clips of a batch, in one step from their noise of this step; zeros without a transformer."""
        lr, (shown, _) = batch["lr"], target_frames(batch)
        if self.dit is None:
            return lr.new_zeros(latent_shape(cast(int, self.decoder.latent_channels), shown))
        cells = latent_shape(cast(int, self.dit.channels), shown)[1:]
        noise = seeded_normal(batch["seed"], "generator", step, size=cells).to(lr.dtype)
        return self.objective.generate(self._bind(self.dit, self.projection, lr), noise)

    def _bind(self, dit: nn.Module | None, projection: nn.Module | None, lr: Tensor) -> Predict:
        """A transformer with the tokens that its own projection makes of the LR frames."""
        return bind_conditions(cast(nn.Module, dit), project(cast(nn.Module, projection), lr), self.prompt)

    def _update_generator(self, batch: Batch, step: int) -> Tensor:
        """Step generator, projection and decoder, and the discriminator; return the latents, without gradient."""
        x = self._generate(batch, step)
        losses = self._latent_losses(x, batch, step)
        frames: tuple[Tensor, Tensor] | None = None
        if self.objective.reconstruction_weight or self.discriminator is not None:
            lr, hr = target_frames(batch)
            sr, window = self.objective.decode(self.decoder, x, lr, shared_random(self.seed, "window", step))
            frames = sr, window.cut_frames(hr)[:, :, window.frames]
            losses |= self._picture_losses(sr, hr, window)
        loss = sum(weight * value.mean() for weight, value in losses.values())
        for name, (_, value) in losses.items():
            self.log(f"train/{name}", value.detach().mean(), batch_size=x.shape[0])
        self._update("generator", cast(Tensor, loss))
        if frames is not None and self.discriminator is not None:
            self._update_discriminator(*frames)
        return x.detach()

    def _latent_losses(self, x: Tensor, batch: Batch, step: int) -> dict[str, tuple[float, Tensor]]:
        """Weight and value `[B]` of the losses on latents."""
        objective, losses = self.objective, {}
        if self.score is not None:
            with torch.no_grad():
                real = self._bind(self.score, self.score_projection, batch["lr"])
                fake = self._bind(self.fake_score, self.fake_projection, batch["lr"])
            losses["dmd"] = objective.dmd_weight, objective.matching_loss(x, real, fake, batch["seed"], step)
        if objective.latent_weight:
            losses["latent"] = objective.latent_weight, objective.latent_loss(x, target_latents(self, batch))
        return losses

    def _picture_losses(self, sr: Tensor, hr: Tensor, window: Window) -> dict[str, tuple[float, Tensor]]:
        """Weight and value `[B]` of the losses on decoded frames."""
        losses: dict[str, tuple[float, Tensor]] = {}
        if self.objective.reconstruction_weight:
            loss, parts = self.objective.reconstruction_loss(sr, hr, window)
            losses["reconstruction"] = self.objective.reconstruction_weight, loss
            for name, part in parts.items():
                self.log(f"train/{name}", part.mean(), batch_size=sr.shape[0])
        if self.discriminator is not None:
            losses["adversarial"] = self.objective.adversarial_weight, hinge_generator_loss(self.discriminator(sr))
        return losses

    def _update_fake(self, x: Tensor, batch: Batch, step: int) -> None:
        """Step the fake score and its projection on generated latents."""
        predict = self._bind(self.fake_score, self.fake_projection, batch["lr"])
        loss = self.objective.fake_loss(x, predict, batch["seed"], step).mean()
        self.log("train/fake_flow", loss.detach(), batch_size=x.shape[0])
        self._update("fake", loss)

    def _update_discriminator(self, sr: Tensor, hr: Tensor) -> None:
        discriminator = cast(nn.Module, self.discriminator)
        loss = hinge_discriminator_loss(discriminator(hr), discriminator(sr.detach())).mean()
        self.log("train/discriminator", loss.detach(), batch_size=sr.shape[0])
        self._update("discriminator", loss)

    def _update(self, name: str, loss: Tensor) -> None:
        """Step one optimizer."""
        networks = self._networks()
        index, parameters = list(networks).index(name), collect_trainable(networks[name])
        optimizers = self.optimizers()
        optimizer = optimizers[index] if isinstance(optimizers, list) else optimizers
        optimizer.zero_grad()
        self.manual_backward(loss)
        if name == "generator" and self.discriminator is not None:
            self.discriminator.zero_grad()  # requires_grad cannot be switched off meanwhile: FSDP does not follow it
        log_gradient_norms(self, networks[name])
        if self.optimization.gradient_clip is not None:
            clip_gradients(cast(Tensor, gradient_norm(parameters)), parameters, self.optimization.gradient_clip)
        optimizer.step()


def _train_latents_alone(decoder: nn.Module) -> None:
    """Leave a gradient to the weights of the decoder's latents and to no other."""
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_("latents" in name.split("."))
    if not any(parameter.requires_grad for parameter in decoder.parameters()):
        raise ValueError(f"train_decoder='latents': the {type(decoder).__name__} has no weights of latents alone")
