"""Training of a conditional autoencoder: an encoder of the truth, and the decoder that sees the LR frames."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from flashvsr.decoders.lit import Reconstruction, latent_size, log_parts, log_validation
from flashvsr.training.batches import Batch, batch_psnr, deviation_and_kurtosis, split_kinds, target_frames
from flashvsr.training.gradients import log_gradient_norms
from flashvsr.training.optimizers import MakeOptimizer, MakeScheduler, configure_optimizer
from flashvsr.training.seeded import seeded_normal, seeded_uniform
from flashvsr.training.sharding import shard_stage


class ConditionalAutoencoderStage(LightningModule):
    """Train an encoder and a conditional decoder together, so that latents hold what the LR frames lack.

    In some samples the latents are zero: the decoder stays a good upscaler by itself. Batches are those of
    :class:`~flashvsr.decoders.lit.DecoderStage`.

    Args:
        encoder: A :class:`~flashvsr.decoders.ConditionalEncoder`.
        decoder: Called ``frames, state = decoder(latents, lr, state)``.
        reconstruction: ``(sr, hr, first) -> ([B], parts)``, such as :class:`~flashvsr.distill.ReconstructionLoss`.
        optimizer: Makes the optimizer of everything in both that has ``requires_grad``.
        scheduler: Makes the schedule of its learning rate, stepped after every step; None keeps the rate.
        kl_weight: Of the divergence of the latents from a standard normal, in nats per latent value. Too small, and
            latents are a mixture of scales that diffusion does not learn; too large, and they hold nothing.
        free_bits: Nats per value of a channel that cost nothing.
        zero_fraction: Share of the samples whose latents are zero.
        latent_noise: Standard deviation of noise on the latents, which have one of 1: what a sampler gives is not
            exact either.

    Raises:
        ValueError: If ``zero_fraction`` is not in [0, 1], or a weight or the noise is negative.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        reconstruction: Reconstruction,
        optimizer: MakeOptimizer,
        *,
        scheduler: MakeScheduler | None = None,
        kl_weight: float = 1e-3,
        free_bits: float = 0.0,
        zero_fraction: float = 0.15,
        latent_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= zero_fraction <= 1:
            raise ValueError(f"zero_fraction={zero_fraction}: expected a share in [0, 1]")
        if min(kl_weight, free_bits, latent_noise) < 0:
            raise ValueError(
                f"kl_weight={kl_weight}, free_bits={free_bits} and latent_noise={latent_noise}: expected 0 or more"
            )
        self.encoder, self.decoder, self.reconstruction = encoder, decoder, reconstruction
        self.optimizer, self.scheduler = optimizer, scheduler
        self.kl_weight, self.free_bits, self.zero_fraction = kl_weight, free_bits, zero_fraction
        self.latent_noise = latent_noise

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, the mean over its samples."""
        encoder: Any = self.encoder
        step, losses, divergences = self.global_step, [], []
        for kind, part in split_kinds(batch):
            lr, hr = target_frames(part)
            mean, log_variance = encoder(hr, lr)
            mean, log_variance = mean.float(), log_variance.float()
            if kind == "video":
                encoder.update_statistics(mean)
            noise = seeded_normal(part["seed"], f"{kind} conditional", step, size=mean.shape[1:])
            latents = encoder.normalise(mean + torch.exp(0.5 * log_variance) * noise)
            if self.latent_noise:
                error = seeded_normal(part["seed"], f"{kind} error", step, size=mean.shape[1:])
                latents = latents + self.latent_noise * error
            kept = seeded_uniform(part["seed"], f"{kind} zero", step, size=(1, 1, 1, 1)) >= self.zero_fraction
            sr, _ = self.decoder((latents * kept).to(lr.dtype), lr, None)
            loss, parts = self.reconstruction(sr, hr, None)
            nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean((2, 3, 4))  # [B, C]
            losses.append(loss + self.kl_weight * nats.clamp_min(self.free_bits).mean(1))
            divergences.append(nats.detach().mean(1))
            log_parts(self, "train", kind, parts)
        loss = torch.cat(losses).mean()
        count = sum(len(part) for part in losses)
        self.log("train/kl", torch.cat(divergences).mean(), batch_size=count)
        self.log("train/loss", loss.detach(), batch_size=count)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Decode clips from the mean of their latents; log also what latents are worth and how they are spread.

        ``val/latents_db`` is the PSNR that latents of the truth add to latents of zero, ``val/kurtosis`` that of the
        latents: 3 for a normal distribution.
        """
        encoder: Any = self.encoder
        lr, hr = target_frames(batch)
        latents = encoder.encode(hr, lr).to(hr.dtype)
        sr, _ = self.decoder(latents, lr, None)
        alone, _ = self.decoder(hr.new_zeros(hr.shape[0], *latent_size(encoder, hr)), lr, None)
        log_validation(self, self.reconstruction, sr, hr)
        gain = batch_psnr(sr, hr) - batch_psnr(alone, hr)
        for name, value in (("latents_db", gain.mean()), ("kurtosis", deviation_and_kurtosis(latents)[1])):
            self.log(f"val/{name}", value, batch_size=hr.shape[0], sync_dist=True)
        return {"lr": lr, "sr": sr.float().clamp(-1, 1), "hr": hr}

    def configure_optimizers(self) -> Any:
        """One optimizer, of encoder and decoder."""
        return configure_optimizer(self._networks(), self.optimizer, self.scheduler)

    def configure_model(self) -> None:
        """Shard both when the strategy has a device mesh."""
        shard_stage(self, self._networks())

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log the gradient norms, before clipping."""
        log_gradient_norms(self, self._networks())

    def _networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "decoder": self.decoder}
