"""Training of decoders and of the autoencoder: LightningModules that call a loss, step an optimizer and log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from flashvsr.decoders.blocks import FRAMES_PER_LATENT
from flashvsr.training.batches import Batch, batch_psnr, split_kinds, target_frames
from flashvsr.training.gradients import log_gradient_norms
from flashvsr.training.optimizers import MakeOptimizer, MakeScheduler, configure_optimizer
from flashvsr.training.seeded import seeded_normal, seeded_uniform
from flashvsr.training.sharding import freeze, shard_stage

Reconstruction = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, dict[str, Tensor]]]

_CELL = 8  # pixels per latent cell


class AutoencoderStage(LightningModule):
    """Train a small video VAE: reconstruction plus the divergence of its latents from a standard normal.

    A batch is ``{"hr": [B, 3, T, H, W] in [-1, 1], "seed": [B] int64}`` with T = 4n + 1, and optionally ``"image"``,
    another such dict with T = 1; images and clips count alike. The running statistics of the latents move along.

    Args:
        vae: A :class:`~flashvsr.decoders.TinyVAE`, or another network with its ``reconstruct``, ``update_statistics``,
            ``latent_channels`` and ``std``.
        reconstruction: ``(sr, hr, first) -> ([B], parts)``, such as :class:`~flashvsr.distill.ReconstructionLoss`.
            Whole clips are compared, so ``first`` is None: every sample has its frame 0, none deserves more weight.
        optimizer: Makes the optimizer of everything in `vae` that has ``requires_grad``.
        scheduler: Makes the schedule of its learning rate, stepped after every step; None keeps the rate.
        kl_weight: Of the divergence, in nats per latent value (averaged, not summed). Far smaller ones let the latents
            grow until the decoder's soft clamp holds them.
    """

    def __init__(
        self,
        vae: nn.Module,
        reconstruction: Reconstruction,
        optimizer: MakeOptimizer,
        *,
        scheduler: MakeScheduler | None = None,
        kl_weight: float = 1e-4,
    ) -> None:
        super().__init__()
        self.vae, self.reconstruction = vae, reconstruction
        self.optimizer, self.scheduler, self.kl_weight = optimizer, scheduler, kl_weight

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, the mean over its samples."""
        vae: Any = self.vae
        step, losses, divergences = self.global_step, [], []
        for kind, part in split_kinds(batch):
            frames = part["hr"]
            noise = seeded_normal(part["seed"], f"{kind} autoencoder", step, size=latent_size(vae, frames))
            decoded, mean, log_variance = vae.reconstruct(frames, noise)
            if kind == "video":
                vae.update_statistics(mean)
            mean, log_variance = mean.float(), log_variance.float()
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).flatten(1).mean(1)
            loss, parts = self.reconstruction(decoded, frames, None)
            log_parts(self, "train", kind, parts)
            losses.append(loss + self.kl_weight * divergence)
            divergences.append(divergence.detach())
        count = sum(len(loss) for loss in losses)
        loss = torch.cat(losses).mean()
        self.log("train/kl", torch.cat(divergences).mean(), batch_size=count)
        self.log("train/loss", loss.detach(), batch_size=count)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Reconstruct clips through the mean of their latents; LR frames, where there are any, are passed on."""
        vae: Any = self.vae
        hr = batch["hr"]
        latents, _ = vae.encode(hr)
        sr, _ = vae.decode(latents.to(hr.dtype))
        log_validation(self, self.reconstruction, sr, hr)
        spread = latents.float().std((0, 2, 3, 4)).mean()
        self.log("val/latent_std", spread, batch_size=hr.shape[0], sync_dist=True)
        return {"lr": batch.get("lr", hr), "sr": sr.float().clamp(-1, 1), "hr": hr}

    def configure_optimizers(self) -> Any:
        """One optimizer, of the whole autoencoder."""
        return configure_optimizer({"vae": self.vae}, self.optimizer, self.scheduler)

    def configure_model(self) -> None:
        """Shard the autoencoder when the strategy has a device mesh."""
        shard_stage(self, {"vae": self.vae})

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norm, before clipping."""
        log_gradient_norms(self, {"vae": self.vae})


class DecoderStage(LightningModule):
    """Train a decoder against the ground truth and against the decoder of the VAE whose latents it reads.

    A batch is ``{"hr", "lr": [B, 3, T, H, W] in [-1, 1], "seed": [B] int64}`` with T = 4n + 1, of which the first T - 4
    frames are used, as everywhere; and optionally ``"image"``, another such dict with T = 1; images and clips count
    alike. The latents are those of the VAE's encoder, of the ground truth.

    Args:
        decoder: Called ``frames, state = decoder(latents, lr, state)``; one without a condition ignores ``lr``.
        vae: Gives latents and the teacher's frames; frozen and not in checkpoints. None with ``latents="zero"``.
        reconstruction: ``(sr, hr, first) -> ([B], parts)``, such as :class:`~flashvsr.distill.ReconstructionLoss`.
            Whole clips are compared, so ``first`` is None: every sample has its frame 0, none deserves more weight.
        optimizer: Makes the optimizer of everything in `decoder` that has ``requires_grad``.
        scheduler: Makes the schedule of its learning rate, stepped after every step; None keeps the rate.
        teacher_weight: Of the same loss against the frames that the VAE decodes; 0 does not decode them.
        latent_noise: Highest noise level of the latents, 0 to 1: each sample draws its own level s below it and is
            decoded from ``(1 - s) latents + s noise``, so that the decoder uses latents as far as they can be trusted.
        latents: ``"vae"``, or ``"zero"``: the decoder sees LR frames only and becomes a plain convolutional upscaler.

    Raises:
        ValueError: If ``latents`` is neither, ``vae`` and ``teacher_weight`` do not go with it, or ``latent_noise`` is
            not in [0, 1].

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, tiny conditional decoder.
    """

    def __init__(
        self,
        decoder: nn.Module,
        vae: nn.Module | None,
        reconstruction: Reconstruction,
        optimizer: MakeOptimizer,
        *,
        scheduler: MakeScheduler | None = None,
        teacher_weight: float = 1.0,
        latent_noise: float = 0.0,
        latents: Literal["vae", "zero"] = "vae",
    ) -> None:
        super().__init__()
        if latents not in ("vae", "zero"):
            raise ValueError(f"latents is 'vae' or 'zero', got {latents!r}")
        if not 0 <= latent_noise <= 1:
            raise ValueError(f"latent_noise={latent_noise}: expected a level in [0, 1]")
        if latents == "vae" and vae is None:
            raise ValueError("latents='vae' needs a vae; pass one, or latents='zero' for a decoder of LR frames alone")
        if latents == "zero" and (vae is not None or teacher_weight or latent_noise):
            raise ValueError(
                "latents='zero' has no latents and no teacher: set vae to null, teacher_weight to 0 and latent_noise "
                f"to 0; got {'a vae' if vae is not None else 'no vae'}, {teacher_weight} and {latent_noise}"
            )
        self.decoder, self.vae, self.reconstruction = decoder, vae, reconstruction
        self.optimizer, self.scheduler = optimizer, scheduler
        self.teacher_weight, self.latent_noise = teacher_weight, latent_noise
        freeze(self, ("vae",))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, the mean over its samples."""
        step, losses = self.global_step, []
        for kind, part in split_kinds(batch):
            lr, hr = target_frames(part)
            latents = self._latents(part)
            teacher = self._teacher(latents)
            if self.latent_noise:
                noise = seeded_normal(part["seed"], f"{kind} decoder", step, size=latents.shape[1:]).to(latents)
                level = self.latent_noise * seeded_uniform(part["seed"], f"{kind} level", step).to(latents)
                latents = torch.lerp(latents, noise, level.view(-1, 1, 1, 1, 1))
            sr, _ = self.decoder(latents, lr, None)
            loss, parts = self.reconstruction(sr, hr, None)
            log_parts(self, "train", kind, parts)
            if teacher is not None:
                imitation, parts = self.reconstruction(sr, teacher, None)
                log_parts(self, "train", f"{kind} teacher", parts)
                loss = loss + self.teacher_weight * imitation
            losses.append(loss)
        loss = torch.cat(losses).mean()
        self.log("train/loss", loss.detach(), batch_size=sum(len(part) for part in losses))
        return loss

    def prepare(self, batch: Batch) -> Batch:
        """Latents of the truth: a data module that repeats clips keeps them."""
        return {} if self.vae is None else {"latents": self._latents(batch)}

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Decode the clips of a batch from the latents of the ground truth; images are passed over."""
        lr, hr = target_frames(batch)
        sr, _ = self.decoder(self._latents(batch), lr, None)
        log_validation(self, self.reconstruction, sr, hr)
        return {"lr": lr, "sr": sr.float().clamp(-1, 1), "hr": hr}

    def configure_optimizers(self) -> Any:
        """One optimizer, of the decoder."""
        return configure_optimizer({"decoder": self.decoder}, self.optimizer, self.scheduler)

    def configure_model(self) -> None:
        """Shard the decoder when the strategy has a device mesh."""
        shard_stage(self, {"decoder": self.decoder})

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norm, before clipping."""
        log_gradient_norms(self, {"decoder": self.decoder})

    @torch.no_grad()
    def _latents(self, part: Batch) -> Tensor:
        if "latents" in part:
            return part["latents"]
        vae: Any = self.vae
        _, hr = target_frames(part)
        if vae is None:
            return hr.new_zeros(hr.shape[0], *latent_size(self.decoder, hr))
        return vae.encode(hr)[0].to(hr.dtype)

    @torch.no_grad()
    def _teacher(self, latents: Tensor) -> Tensor | None:
        vae: Any = self.vae
        return vae.decode(latents)[0].clamp(-1, 1) if self.teacher_weight else None


def log_parts(stage: Any, when: str, kind: str, parts: dict[str, Tensor]) -> None:
    """Log ``<when>/<part>``; an image's and a teacher's with a prefix."""
    prefix = kind.removeprefix("video").strip().replace(" ", "_")
    for name, part in parts.items():
        label = f"{prefix}_{name}" if prefix else name
        stage.log(f"{when}/{label}", part.mean(), batch_size=len(part), sync_dist=when == "val")


def log_validation(stage: Any, reconstruction: Reconstruction, sr: Tensor, hr: Tensor) -> None:
    """Log loss and PSNR (RGB, of [0, 1]) of decoded frames."""
    loss, _ = reconstruction(sr, hr, None)
    log_parts(stage, "val", "video", {"loss": loss, "psnr": batch_psnr(sr, hr)})


def latent_size(network: Any, frames: Tensor) -> tuple[int, int, int, int]:
    """Shape of the latents of one sample of `[B, 3, T, H, W]`."""
    _, _, count, height, width = frames.shape
    return network.latent_channels, (count + 3) // FRAMES_PER_LATENT, height // _CELL, width // _CELL
