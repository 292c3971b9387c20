import math
from functools import partial
from pathlib import Path

import pytest
import torch

from flashvsr.decoders import TinyConditionalDecoder, TinyDecoder
from flashvsr.decoders.lit import AutoencoderStage, DecoderStage
from flashvsr.training import seeded_normal, seeded_uniform
from tests.decoders.toy_decoders import fit, make_batch, make_stage, squared_error, toy_vae

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on loggers, workers and devices
ADAM = partial(torch.optim.Adam, lr=0.01)
STAGES = ("autoencoder", "conditional", "unconditional", "control")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_halves_its_loss_on_one_batch(name):
    adam = partial(torch.optim.Adam, lr=0.003)
    if name == "autoencoder":
        stage = AutoencoderStage(toy_vae(width=16), squared_error, adam, kl_weight=1e-6)
    elif name == "unconditional":
        decoder = TinyDecoder(channels=(16,) * 4)
        stage = DecoderStage(decoder, toy_vae(), squared_error, adam, teacher_weight=0.0)
    else:
        stage = make_stage(name, adam, **({} if name == "control" else {"teacher_weight": 0.0}))
    losses = []
    stage.log = lambda key, value, **_: losses.append(float(value)) if key == "train/loss" else None
    fit(stage, [make_batch(range(2))] * 100)
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


@pytest.mark.parametrize("name", STAGES)
def test_a_gradient_reaches_every_parameter_that_is_trained_and_no_other(name):
    stage = make_stage(name)
    fit(stage, [make_batch(range(2), images=True)])
    found = {key for key, parameter in stage.named_parameters() if parameter.grad is not None}
    trained = "vae." if name == "autoencoder" else "decoder."
    assert found == {key for key, _ in stage.named_parameters() if key.startswith(trained)}


@pytest.mark.parametrize("name", STAGES)
def test_losses_gradient_norms_and_validation_are_reported(name):
    stage, batch = make_stage(name), make_batch(range(2), images=True)
    logged = {}
    stage.log = lambda key, value, **_: logged.__setitem__(key, float(value))
    fit(stage, [batch])
    with torch.no_grad():
        shown = stage.validation_step(batch, 0)
    network = "vae" if name == "autoencoder" else "decoder"
    expected = {"train/loss", "train/mse", "train/image_mse", f"train/grad_norm_{network}", "val/loss", "val/psnr"}
    if name == "autoencoder":
        expected |= {"train/kl", "val/latent_std"}
    if name in ("conditional", "unconditional"):
        expected |= {"train/teacher_mse", "train/image_teacher_mse"}
    assert set(logged) == expected
    assert all(math.isfinite(value) for value in logged.values())
    assert logged[f"train/grad_norm_{network}"] > 0
    assert {key: tuple(value.shape) for key, value in shown.items()} == dict.fromkeys(
        ("lr", "sr", "hr"), (2, 3, 9 if name == "autoencoder" else 5, 16, 16)
    )
    assert shown["sr"].abs().max() <= 1


def _loss(stage, batch):
    stage.log = lambda *_, **__: None
    with torch.no_grad():
        return stage.training_step(batch, 0)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_trains_in_bf16(name, precision):
    losses = {}
    for kind in ("32-true", precision):
        stage = make_stage(name)
        stage.log = lambda key, value, kind=kind, **_: losses.setdefault(f"{kind} {key}", float(value))
        fit(stage, [make_batch(range(2), images=True)], precision=kind)
    assert losses[f"{precision} train/loss"] == pytest.approx(losses["32-true train/loss"], rel=0.05)
    assert all(math.isfinite(value) for value in losses.values())


def test_the_teacher_is_the_vae_and_its_weight_counts():
    batch = make_batch(range(2))
    losses = [_loss(make_stage("conditional", teacher_weight=weight), batch) for weight in (0.0, 1.0, 2.0)]
    torch.testing.assert_close(losses[2] - losses[1], losses[1] - losses[0])
    assert losses[1] > losses[0]
    stage = make_stage("conditional", teacher_weight=0.0)
    stage.vae.decode = None  # would raise
    _loss(stage, batch)


def test_the_divergence_counts_by_its_weight():
    batch = make_batch(range(2))
    losses = [_loss(make_stage("autoencoder", kl_weight=weight), batch) for weight in (0.0, 1.0, 2.0)]
    torch.testing.assert_close(losses[2] - losses[1], losses[1] - losses[0])
    assert losses[1] > losses[0]


@pytest.mark.parametrize("name", ["autoencoder", "conditional"])
def test_the_loss_of_a_sample_does_not_depend_on_its_batch(name):
    stage = make_stage(name)
    if name == "conditional":
        stage.latent_noise = 1.0
    else:
        torch.nn.init.zeros_(stage.vae.encoder.head.bias)  # draws differ as much as the latents themselves
    together = _loss(stage, make_batch(range(2)))
    alone = [_loss(stage, make_batch([index])) for index in range(2)]
    torch.testing.assert_close(together, torch.stack(alone).mean())
    changed = make_batch(range(2))
    changed["seed"] += 7
    assert not torch.equal(_loss(stage, changed), together)


def test_every_sample_has_a_noise_level_of_its_own_up_to_the_highest():
    stage = make_stage("conditional", latent_noise=1.0)
    seen = []
    stage.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    batch = make_batch(range(8))
    latents = stage.prepare(batch)["latents"]
    _loss(stage, batch | {"latents": 1e6 * torch.ones_like(latents)})  # so large that only the level shows
    levels = 1 - seen[0].flatten(1).mean(1) / 1e6
    assert 0 < levels.min() < 0.4 < 0.6 < levels.max() < 1
    assert len(set(levels.tolist())) == 8
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"latent_noise={wrong}"):
            make_stage("conditional", latent_noise=wrong)


def test_the_noise_of_a_sample_is_that_of_all_stages_and_the_same_on_every_device():
    stage, batch = make_stage("conditional", latent_noise=0.5), make_batch(range(3))
    given = []
    stage.decoder.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    _loss(stage, batch)
    latents = stage.prepare(batch)["latents"]
    noise = seeded_normal(batch["seed"], "video decoder", 0, size=latents.shape[1:])
    level = 0.5 * seeded_uniform(batch["seed"], "video level", 0).view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(given[0], (1 - level) * latents + level * noise)


def test_latents_that_come_with_a_batch_are_not_encoded_again():
    stage, batch = make_stage("conditional"), make_batch(range(2), images=True)
    expected = _loss(stage, batch)
    kept, kept_image = stage.prepare(batch), stage.prepare(batch["image"])
    stage.vae.encode = None  # would raise
    ready = batch | {"latents": kept["latents"], "image": batch["image"] | kept_image}
    assert torch.equal(_loss(stage, ready), expected)
    assert make_stage("control").prepare(batch) == {}


def test_the_control_sees_no_latents():
    stage = make_stage("control")
    seen = []
    stage.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    _loss(stage, make_batch(range(2)))
    assert seen[0].shape == (2, 16, 2, 2, 2)
    assert not seen[0].any()
    size = sum(p.numel() for p in TinyConditionalDecoder(channels=(96, 64, 32, 16), residual=True).parameters())
    assert 2.3e6 < size < 2.5e6


def test_checkpoints_hold_no_frozen_vae_and_load_strictly():
    stage = make_stage("conditional")
    saved = stage.state_dict()
    assert saved
    assert not [key for key in saved if key.startswith("vae.")]
    other = make_stage("conditional")
    torch.nn.init.zeros_(other.decoder.decoder["26"].weight)
    other.load_state_dict(saved, strict=True)
    assert torch.equal(other.decoder.decoder["26"].weight, stage.decoder.decoder["26"].weight)
    saved.popitem()
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(saved, strict=True)


def test_statistics_are_normal_after_training():
    stage = make_stage("autoencoder", partial(torch.optim.Adam, lr=1e-5))
    batch = make_batch(range(4))
    fit(stage, [batch] * 20)
    assert int(stage.vae.updates) == 20
    with torch.no_grad():
        spread = stage.vae.encode(batch["hr"])[0].std((0, 2, 3, 4))
    assert spread.min() > 0.3
    assert spread.max() < 1.1


def test_arguments_that_contradict_one_another_are_refused():
    decoder = TinyConditionalDecoder(channels=(4, 4, 4, 4))
    with pytest.raises(ValueError, match="latents='vae' needs a vae"):
        DecoderStage(decoder, None, squared_error, ADAM)
    with pytest.raises(ValueError, match="set vae to null, teacher_weight to 0"):
        DecoderStage(decoder, None, squared_error, ADAM, latents="zero")
    with pytest.raises(ValueError, match="'vae' or 'zero', got 'noise'"):
        DecoderStage(decoder, None, squared_error, ADAM, latents="noise")
    stage, batch = make_stage("conditional"), make_batch(range(2))
    with pytest.raises(ValueError, match=r"4n \+ 1 frames, at least 5, and an image 1; got 8"):
        _loss(stage, {key: value[:, :, :8] if key != "seed" else value for key, value in batch.items()})
    with pytest.raises(ValueError, match="lr is upsampled to the size of hr"):
        _loss(stage, {**batch, "lr": batch["lr"][..., ::4, ::4]})
    with pytest.raises(ValueError, match="nothing to train"):
        stage.decoder.requires_grad_(False)
        stage.configure_optimizers()


@pytest.mark.slow  # three Python processes start Lightning and train nine toys
def test_two_processes_of_ddp_and_of_fsdp2_train_as_one_does_on_the_same_batch(assert_trains_like_one_process):
    assert_trains_like_one_process(Path(__file__).with_name("spread_decoders.py"))
