"""Toy stages of decoder training."""

from functools import partial

import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from flashvsr.decoders import TinyConditionalDecoder, TinyDecoder, TinyVAE
from flashvsr.decoders.lit import AutoencoderStage, DecoderStage

CHANNELS = (4, 4, 4, 4)
SGD = partial(torch.optim.SGD, lr=0.1)


def squared_error(sr, hr, first):
    """A stand-in for a reconstruction loss."""
    loss = (sr.float() - hr.float()).square().flatten(1).mean(1)
    return loss, {"mse": loss.detach()}


def toy_vae(width: int = 4) -> TinyVAE:
    torch.manual_seed(0)
    return TinyVAE(encoder_channels=(width,) * 3, channels=(width,) * 4)


def make_stage(name: str, optimizer=SGD, **arguments) -> LightningModule:
    if name == "autoencoder":
        return AutoencoderStage(toy_vae(), squared_error, optimizer, **{"kl_weight": 0.01, **arguments})
    vae = toy_vae()
    torch.manual_seed(1)
    if name == "unconditional":
        return DecoderStage(TinyDecoder(channels=CHANNELS), vae, squared_error, optimizer, **arguments)
    decoder = TinyConditionalDecoder(channels=CHANNELS, residual=True)
    for key in ("latents", "26"):  # which start at zero
        torch.nn.init.normal_(decoder.decoder[key].weight, std=0.1)
    if name == "control":
        return DecoderStage(decoder, None, squared_error, optimizer, teacher_weight=0.0, latents="zero")
    return DecoderStage(decoder, vae, squared_error, optimizer, **{"latent_noise": 0.1, **arguments})


def make_batch(indices, images: bool = False, frames: int = 9) -> dict:
    """Samples by index, each a function of its own index alone."""
    hr = []
    for index in indices:
        generator = torch.Generator().manual_seed(100 * frames + index)
        coarse = torch.rand(1, 3, frames, 4, 4, generator=generator) - 0.5
        hr.append(torch.nn.functional.interpolate(coarse, scale_factor=(1, 4, 4), mode="trilinear")[0])
    hr = torch.stack(hr)
    batch = {"hr": hr, "lr": 0.9 * hr - 0.3, "seed": torch.tensor(list(indices))}
    return {**batch, "image": make_batch(indices, frames=1)} if images else batch


def fit(stage, batches, **arguments) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(accelerator="cpu", max_epochs=1, use_distributed_sampler=False, **quiet, **arguments)
    trainer.fit(stage, DataLoader(batches, batch_size=None))
    return trainer
