from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from flashvsr.decoders import ConditionalEncoder, TinyConditionalDecoder
from flashvsr.decoders.lit_conditional import ConditionalAutoencoderStage
from tests.decoders.toy_decoders import squared_error

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def _networks():
    torch.manual_seed(0)
    decoder = TinyConditionalDecoder(channels=(8, 8, 8, 8), residual=True)
    for key in ("latents", "26"):  # which start at zero
        torch.nn.init.normal_(decoder.decoder[key].weight, std=0.1)
    return ConditionalEncoder(channels=(8, 8, 8)), decoder


def _clips(frames: int = 9, batch: int = 2, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    hr = torch.rand(batch, 3, frames, 16, 16, generator=generator) * 2 - 1
    lr = torch.nn.functional.avg_pool3d(hr, (1, 4, 4)).repeat_interleave(4, 3).repeat_interleave(4, 4)
    return {"hr": hr, "lr": lr, "seed": torch.arange(batch)}


def _stage(**options) -> ConditionalAutoencoderStage:
    return ConditionalAutoencoderStage(*_networks(), squared_error, partial(torch.optim.Adam, lr=3e-3), **options)


def _loss(stage, batch):
    stage.log = lambda *_, **__: None
    return stage.training_step(batch, 0)


def test_a_clip_becomes_a_latent_for_frame_0_and_one_for_every_four_more():
    encoder, _ = _networks()
    mean, log_variance = encoder(*(_clips()[name] for name in ("hr", "lr")))
    assert mean.shape == log_variance.shape == (2, 16, 3, 2, 2)


def test_the_encoder_sees_the_truth_and_the_lr_frames_and_nothing_ahead():
    encoder, _ = _networks()
    clips = _clips()
    mean, _ = encoder(clips["hr"], clips["lr"])
    for name in ("hr", "lr"):
        changed = {**clips, name: clips[name].clone()}
        changed[name][:, :, 5:] *= 0.5
        other, _ = encoder(changed["hr"], changed["lr"])
        assert torch.equal(other[:, :, :2], mean[:, :, :2]) and not torch.equal(other[:, :, 2], mean[:, :, 2])


def test_latents_are_normalised_by_what_the_statistics_saw():
    encoder, _ = _networks()
    clips = _clips(batch=8)
    encoder.update_statistics(encoder(clips["hr"], clips["lr"])[0])
    latents = encoder.encode(clips["hr"], clips["lr"])
    torch.testing.assert_close(latents.mean((0, 2, 3, 4)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(16), atol=0.05, rtol=0)


@pytest.mark.parametrize("change", ["frames", "size", "lr"])
def test_what_does_not_fit_is_refused(change):
    encoder, _ = _networks()
    hr, lr = torch.zeros(1, 3, 5, 16, 16), torch.zeros(1, 3, 5, 16, 16)
    hr, lr = {"frames": (hr[:, :, :4], lr[:, :, :4]), "size": (hr[..., :12], lr[..., :12]), "lr": (hr, lr[:, :, :1])}[
        change
    ]
    with pytest.raises(ValueError, match="4n"):
        encoder(hr, lr)


def test_with_all_latents_dropped_the_encoder_learns_nothing_from_the_frames():
    for fraction, learns in ((1.0, False), (0.0, True)):
        stage = _stage(zero_fraction=fraction, kl_weight=0.0)
        _loss(stage, _clips()).backward()
        gradients = [p.grad.abs().sum() for p in stage.encoder.parameters() if p.grad is not None]
        assert bool(sum(gradients) > 0) is learns


def test_a_sample_does_not_depend_on_its_batch():
    stage, batch = _stage(zero_fraction=0.5, kl_weight=0.1), _clips(batch=4)
    stage.encoder.update_statistics = lambda mean: None
    parts = [{name: value[i : i + 1] for name, value in batch.items()} for i in range(4)]
    alone = torch.stack([_loss(stage, part) for part in parts]).mean()
    torch.testing.assert_close(_loss(stage, batch), alone)


def test_noise_on_the_latents_reaches_samples_that_keep_theirs_and_no_others():
    batch = _clips(batch=4)
    for fraction, same in ((0.0, False), (1.0, True)):
        plain, noisy = (_loss(_stage(zero_fraction=fraction, latent_noise=level), batch) for level in (0.0, 0.5))
        assert torch.equal(plain, noisy) == same


def test_free_bits_cost_nothing_and_more_divergence_costs_its_weight():
    batch = _clips()
    free, light, heavy = (
        float(_loss(_stage(zero_fraction=1.0, **options), batch).detach())
        for options in ({"kl_weight": 1.0, "free_bits": 0.0}, {"kl_weight": 0.0}, {"kl_weight": 2.0})
    )
    assert heavy - light == pytest.approx(2 * (free - light), rel=1e-4) and free > light
    bounded = float(_loss(_stage(zero_fraction=1.0, kl_weight=1.0, free_bits=100.0), batch).detach())
    assert bounded - light == pytest.approx(100.0, rel=1e-3)


def test_a_stage_learns_to_use_its_latents_and_logs_what_they_are_worth(tmp_path):
    batch = _clips()
    hidden = (
        torch.randn(2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(2)).sign() / 2
    )  # the LR frames know nothing
    batch["hr"] = hidden.repeat_interleave(8, 3).repeat_interleave(8, 4).expand(-1, -1, 9, -1, -1).contiguous()
    batch["lr"] = torch.zeros_like(batch["hr"])
    stage, data = _stage(kl_weight=0.0), DataLoader([batch], batch_size=None)
    trainer = Trainer(accelerator="cpu", max_epochs=80, check_val_every_n_epoch=80, default_root_dir=tmp_path, **QUIET)
    before = trainer.validate(stage, data, verbose=False)[0]
    trainer.fit(stage, data, data)
    after = trainer.callback_metrics
    assert abs(before["val/latents_db"]) < 0.5
    assert after["val/latents_db"] > 1
    assert after["val/kurtosis"] > 1


@pytest.mark.parametrize(
    "options", [{"zero_fraction": 1.5}, {"kl_weight": -1.0}, {"free_bits": -1.0}, {"latent_noise": -0.1}]
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        _stage(**options)
