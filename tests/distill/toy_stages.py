"""Toy networks, batches and stages of the sizes that tests take."""

from __future__ import annotations

from dataclasses import fields
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn

from flashvsr.attention import FullAttention, LocalSparseAttention
from flashvsr.decoders import TinyConditionalDecoder
from flashvsr.distill import OneStepObjective, ReconstructionLoss
from flashvsr.distill.lit import JointStage, OneStepOptimization, OneStepStage, SparseCausalStage
from flashvsr.models import FlowSchedule, LRProjection, VideoDiT, with_lora

CHANNELS = 4
FRAMES, SIZE = 17, 128


class ToyVAE(nn.Module):
    """Linear, with the geometry of the Wan VAE: frame 0 alone, then four frames per latent."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(768, CHANNELS), nn.Linear(CHANNELS, 768)

    def encode(self, frames: Tensor, state: None = None) -> tuple[Tensor, None]:
        frames = torch.cat((frames[:, :, :1].expand(-1, -1, 3, -1, -1), frames), 2)
        x = rearrange(frames, "b c (n t) (h p) (w q) -> b n h w (c t p q)", t=4, p=8, q=8)
        return self.down(x).movedim(-1, 1), None

    def decode(self, latents: Tensor, state: None = None) -> tuple[Tensor, None]:
        x = self.up(latents.movedim(1, -1))
        return rearrange(x, "b n h w (c t p q) -> b c (n t) (h p) (w q)", t=4, p=8, q=8)[:, :, 3:], None

    def forward(self, latents: Tensor, lr: Tensor | None = None, state: None = None) -> tuple[Tensor, None]:
        return self.decode(latents)


class ToyEncoder(ToyVAE):
    """Sees what the LR frames lack."""

    def encode(self, hr: Tensor, lr: Tensor) -> Tensor:  # type: ignore[override]  # another interface, on purpose
        return super().encode(hr - lr)[0]


def toy_dit(sparse: bool, text_dim: int | None = None) -> VideoDiT:
    attention = (
        partial(LocalSparseAttention, window_hw=(3, 3), sparse_ratio=0.5, history=2)
        if sparse
        else partial(FullAttention, impl="sdpa")
    )
    return VideoDiT(16, 2, 2, 32, channels=CHANNELS, frequency_dim=16, text_dim=text_dim, attention=attention)


def toy_projection() -> LRProjection:
    return LRProjection(hidden=(4, 8), dim=16)


def toy_decoder(residual: bool = False) -> TinyConditionalDecoder:
    decoder = TinyConditionalDecoder(CHANNELS, (8, 8, 4, 4), residual)
    if residual:
        nn.init.normal_(decoder.decoder["26"].weight, std=0.1)  # it starts at zero
    return decoder


def sample(index: int, frames: int = FRAMES, size: int = SIZE) -> dict[str, Tensor]:
    """One smooth clip, without a batch axis."""
    generator = torch.Generator().manual_seed(100 * frames + index)
    coarse = torch.rand(1, 3, 3, 4, 4, generator=generator) * 2 - 1
    hr = nn.functional.interpolate(coarse, (frames, size, size), mode="trilinear")[0]
    return {"hr": hr, "lr": 0.9 * hr, "seed": torch.tensor(1000 + index)}


def batch(indices: list[int], images: bool = False) -> dict:
    made = torch.utils.data.default_collate([sample(index) for index in indices])
    if images:
        made["image"] = torch.utils.data.default_collate([sample(index, 1, 64) for index in indices])
    return made


def make_stage(name: str, text_dim: int | None = None, residual: bool = False, **arguments):
    """A stage with equal weights in every process and run: "joint", "sparse" or "one_step", or "sparse_lora"."""
    torch.manual_seed(0)
    schedule, sgd = FlowSchedule(), partial(torch.optim.SGD, lr=0.1)
    prompt = torch.randn(1, 3, text_dim) if text_dim else None
    if name in ("joint", "sparse", "sparse_lora"):
        stage = JointStage if name == "joint" else SparseCausalStage
        networks = toy_dit(name != "joint", text_dim), toy_projection(), arguments.pop("vae", ToyVAE())
        if name == "sparse_lora":
            with_lora(networks[0], rank=2)
        return stage(*networks, schedule, sgd, **{"prompt": prompt, "validation_steps": 2, **arguments})
    given = {"train_decoder": True, "latent_weight": 0.1, "generator_every": 1, **arguments}
    given = {"generator_optimizer": sgd, "fake_optimizer": sgd, "score": toy_dit(False, text_dim), **given}
    objective, optimization = (
        {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}
        for kind in (OneStepObjective, OneStepOptimization)
    )
    networks = given.pop("dit", toy_dit(True, text_dim)), given.pop("projection", toy_projection())
    return OneStepStage(
        *networks,
        toy_decoder(residual),
        OneStepObjective(schedule, ReconstructionLoss(perceptual="fft"), **objective),
        OneStepOptimization(**optimization),
        **{"score_projection": toy_projection(), "vae": ToyVAE(), "prompt": prompt, **given},
    )
