"""The stages: which networks a gradient reaches, alignment, checkpoints, precision, and two processes equal to one."""

import copy
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from flashvsr.distill import OneStepObjective, PatchDiscriminator
from flashvsr.distill.lit import OneStepOptimization
from flashvsr.training import WarmupCosine, collect_trainable
from tests.distill.toy_stages import ToyEncoder, batch, make_stage, sample, toy_decoder

STAGES = ("joint", "sparse", "one_step")


def _fit(stage, batches, tmp_path, **arguments):
    loader = DataLoader(batches, batch_size=None)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **{"max_epochs": 1, **arguments},
    )
    trainer.fit(stage, loader)
    return trainer


def _changed(stage, before) -> set[str]:
    """Networks whose parameters are not what they were."""
    named = dict(stage.named_parameters())
    return {name.split(".")[0] for name, value in before.items() if not torch.equal(named[name], value)}


def _snapshot(stage):
    return {name: parameter.detach().clone() for name, parameter in stage.named_parameters()}


@pytest.mark.parametrize("name", ["joint", "sparse"])
def test_a_teacher_stage_trains_transformer_and_projection_only(name, tmp_path):
    stage = make_stage(name)
    before = _snapshot(stage)
    trainer = _fit(stage, [batch([0], images=name == "joint")], tmp_path)
    assert _changed(stage, before) == {"dit", "projection"}
    assert {"train/flow", "train/grad_norm_dit", "train/grad_norm_projection"} <= set(trainer.logged_metrics)
    assert all(parameter.grad is None for parameter in stage.vae.parameters())


@pytest.mark.parametrize("name", ["joint", "sparse"])
def test_a_teacher_stage_halves_its_loss_on_one_batch_with_noise_and_level_fixed(name):
    stage = make_stage(name, **({"random_history": False} if name == "sparse" else {}))
    trainer = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=0))  # noise and level are those of step 0
    stage.trainer, stage.log = trainer, lambda *_, **__: None
    given, losses = batch([0], images=name == "joint"), []
    optimizer = torch.optim.Adam(collect_trainable({"dit": stage.dit, "projection": stage.projection}), 0.01)
    for _ in range(100):
        loss = stage.training_step(given, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if losses[-1] < losses[0] / 2:
            return
    pytest.fail(f"from {losses[0]} to {min(losses)} only")


@pytest.mark.parametrize("name", ["joint", "sparse", "one_step"])
def test_latents_that_come_with_a_batch_are_not_encoded_again(name, tmp_path):
    stage = make_stage(name, **({"latent_weight": 1.0} if name == "one_step" else {}))
    given = batch([0, 1], images=name == "joint")
    kept, before = stage.prepare(given), _snapshot(stage)
    ready = given | {"latents": kept["latents"]}
    if name == "joint":
        ready["image"] = given["image"] | stage.prepare(given["image"])
    again, stage.vae.encode = copy.deepcopy(stage), None  # would raise
    _fit(stage, [ready], tmp_path)
    _fit(again, [given], tmp_path)
    assert _changed(stage, before)
    assert not _changed(again, _snapshot(stage))


@pytest.mark.parametrize("name", ["joint", "sparse", "one_step"])
def test_an_encoder_in_place_of_the_vae_sees_the_lr_frames_and_stays_as_it_is(name, tmp_path):
    encoder = ToyEncoder()
    stage = make_stage(name, vae=None, encoder=encoder, **({} if name == "one_step" else {"decoder": toy_decoder()}))
    given, before = batch([0, 1], images=name == "joint"), _snapshot(stage)
    expected = encoder.encode(given["hr"][:, :, :13], given["lr"][:, :, :13])
    assert torch.equal(stage.prepare(given)["latents"], expected)
    trainer = _fit(stage, [given], tmp_path)
    assert not _changed(stage, before) & {"encoder"} and not any(k.startswith("encoder") for k in stage.state_dict())
    trainer.validate(stage, DataLoader([batch([0])], batch_size=None), verbose=False)
    assert 0 < trainer.callback_metrics["val/deviation"] < 100 and trainer.callback_metrics["val/kurtosis"] > 1


def test_clips_without_images_are_not_packed_and_give_the_loss_of_packed_ones(tmp_path):
    stage, losses = make_stage("joint"), []
    stage.trainer = SimpleNamespace(fit_loop=SimpleNamespace(total_batch_idx=3))
    stage.log = lambda *_, **__: None
    given = batch([0, 1])
    losses.append(stage.training_step(given, 0))
    drawn = stage._draw("video", given, 3)
    losses.append(stage._packed_losses([drawn]).mean())
    torch.testing.assert_close(*losses)
    stage.dit.forward_packed = None  # would raise
    stage.training_step(given, 0)


def test_the_control_trains_the_decoder_alone_on_latents_of_zero_and_its_discriminator(tmp_path):
    adam, seen = partial(torch.optim.Adam, lr=1e-3), []
    alone = {"dmd_weight": 0.0, "latent_weight": 0.0, "score": None, "score_projection": None, "vae": None}
    against = {"discriminator": PatchDiscriminator(4), "discriminator_optimizer": adam, "adversarial_weight": 0.1}
    stage = make_stage("one_step", dit=None, projection=None, **alone, **against)
    stage.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    before = _snapshot(stage)
    trainer = _fit(stage, [batch([0]), batch([1])], tmp_path)
    assert _changed(stage, before) == {"decoder", "discriminator"}
    assert trainer.global_step == 4 and not any(latents.any() for latents in seen)
    trainer.validate(stage, DataLoader([batch([0])], batch_size=None), verbose=False)
    assert torch.isfinite(trainer.callback_metrics["val/psnr"])


def test_parts_that_do_not_belong_together_are_refused():
    for wrong, said in (
        ({"vae": None}, "from a vae or from an encoder"),
        ({"encoder": ToyEncoder()}, "from a vae or from an encoder"),
        ({"vae": None, "encoder": ToyEncoder()}, "an encoder decodes nothing"),
    ):
        with pytest.raises(ValueError, match=said):
            make_stage("joint", **wrong)
    for wrong, said in (
        ({"dit": None}, "a transformer and its projection belong together"),
        ({"dit": None, "projection": None}, "set dmd_weight and latent_weight to 0"),
        (
            {"dit": None, "projection": None, "dmd_weight": 0.0, "latent_weight": 0.0, "train_decoder": False},
            "only the",
        ),
        ({"encoder": ToyEncoder()}, "from a vae or from an encoder"),
    ):
        with pytest.raises(ValueError, match=said):
            make_stage("one_step", **wrong)


def test_without_a_loss_on_latents_the_one_step_stage_prepares_none():
    assert make_stage("one_step", latent_weight=0.0).prepare(batch([0])) == {}


@pytest.mark.parametrize(
    ("arguments", "generator"),
    [({"train_decoder": True}, {"dit", "projection", "decoder"}), ({"train_decoder": False}, {"dit", "projection"})],
)
def test_each_update_of_the_one_step_stage_reaches_its_own_networks_only(arguments, generator, tmp_path):
    stage, reached = make_stage("one_step", **arguments), {}
    update = stage._update

    def watched(name, loss):
        stage.zero_grad(set_to_none=True)
        update(name, loss)
        grads = {key.split(".")[0] for key, p in stage.named_parameters() if p.grad is not None and p.grad.any()}
        reached[name] = grads

    stage._update = watched
    before = _snapshot(stage)
    _fit(stage, [batch([0])], tmp_path)
    assert reached == {"generator": generator, "fake": {"fake_score", "fake_projection"}}
    assert _changed(stage, before) == generator | {"fake_score", "fake_projection"}


def test_of_a_finished_decoder_the_weights_of_the_latents_learn_alone(tmp_path):
    stage = make_stage("one_step", residual=True, train_decoder="latents")
    before = {name: value.clone() for name, value in stage.decoder.state_dict().items()}
    _fit(stage, [batch([0]), batch([1])], tmp_path)
    changed = {name for name, value in stage.decoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"decoder.latents.weight"}
    assert any(key.startswith("decoder.") for key in stage.state_dict())
    with pytest.raises(ValueError, match="no weights of latents alone"):
        make_stage("one_step", train_decoder="latents")


def test_the_generator_waits_its_turn_and_the_fake_score_does_not(tmp_path):
    stage, updates = make_stage("one_step", generator_every=3), []
    update = stage._update
    stage._update = lambda name, loss: updates.append(name) or update(name, loss)
    _fit(stage, [batch([index]) for index in range(4)], tmp_path)
    assert updates == ["generator", "fake", "fake", "fake", "generator", "fake"]


def test_without_distribution_matching_there_are_no_scores_and_every_batch_updates_the_generator(tmp_path):
    stage, updates = make_stage("one_step", dmd_weight=0.0, generator_every=5), []
    update = stage._update
    stage._update = lambda name, loss: updates.append(name) or update(name, loss)
    _fit(stage, [batch([0]), batch([1])], tmp_path)
    assert updates == ["generator", "generator"]
    assert stage.score is None and stage.fake_score is None


def test_the_adversarial_term_trains_a_discriminator_that_the_generator_does_not_touch(tmp_path):
    adam = partial(torch.optim.Adam, lr=1e-3)
    stage = make_stage(
        "one_step", discriminator=PatchDiscriminator(4), discriminator_optimizer=adam, adversarial_weight=0.1
    )
    reached, update = {}, stage._update

    def watched(name, loss):
        stage.zero_grad(set_to_none=True)
        update(name, loss)
        reached[name] = {key.split(".")[0] for key, p in stage.named_parameters() if p.grad is not None}

    stage._update = watched
    _fit(stage, [batch([0])], tmp_path)
    assert "discriminator" not in reached["generator"] and reached["discriminator"] == {"discriminator"}


def test_what_has_no_requires_grad_stays_and_its_fake_copy_too(tmp_path):
    stage = make_stage("one_step")
    adapter = "blocks.0.ffn.0"
    arguments = {}
    for name in ("dit", "score"):
        network = copy.deepcopy(getattr(stage, name)).requires_grad_(False)
        network.get_submodule(adapter).requires_grad_(True)
        arguments[name] = network
    sgd = partial(torch.optim.SGD, lr=0.1)
    stage = type(stage)(
        arguments["dit"],
        stage.projection.requires_grad_(False),
        stage.decoder,
        OneStepObjective(stage.schedule, stage.reconstruction, latent_weight=1.0),
        OneStepOptimization(sgd, sgd, generator_every=1),
        score=arguments["score"],
        score_projection=stage.score_projection,
        vae=stage.vae,
    )
    before = _snapshot(stage)
    _fit(stage, [batch([0])], tmp_path)
    named = dict(stage.named_parameters())
    changed = {name for name, value in before.items() if not torch.equal(named[name], value)}
    assert {name.rsplit(".", 1)[0] for name in changed} == {f"dit.{adapter}", f"fake_score.{adapter}"}


def test_clipping_scales_the_gradients_of_one_optimizer_together(tmp_path):
    steps = []
    for clip in (None, 0.05):
        stage = make_stage("one_step", gradient_clip=clip, train_decoder=False)
        before = _snapshot(stage)
        _fit(stage, [batch([0])], tmp_path)
        named = dict(stage.named_parameters())
        steps.append(torch.cat([(named[k] - v).flatten() for k, v in before.items() if k.startswith(("dit.", "proj"))]))
    torch.testing.assert_close(steps[1].norm(), torch.tensor(0.1 * 0.05), rtol=1e-3, atol=0)  # 0.1 is the rate
    torch.testing.assert_close(steps[1] / steps[1].norm(), steps[0] / steps[0].norm(), rtol=1e-3, atol=1e-3)


def test_schedules_count_the_steps_of_the_trainer_so_that_max_steps_ends_them_all(tmp_path):
    warm = partial(WarmupCosine, steps=10, warmup=4)
    stage = make_stage("one_step", generator_every=2, generator_scheduler=warm, fake_scheduler=warm)
    trainer = _fit(stage, [batch([index]) for index in range(3)], tmp_path)
    assert [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs] == [5, 5]
    assert trainer.global_step == 5
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi / 6))] * 2)


def test_an_image_does_not_see_the_video_that_it_is_packed_with(tmp_path):
    losses = []
    for index in (0, 1):
        packed = batch([index], images=True)
        packed["image"] = batch([5], images=True)["image"]
        stage = make_stage("joint", image_weight=1e6)  # what is left is the loss of the image
        losses.append(_fit(stage, [packed], tmp_path).logged_metrics["train/flow"])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", STAGES)
def test_validation_returns_pictures_of_the_frames_that_have_latents(name, tmp_path):
    stage = make_stage(name)
    trainer = _fit(stage, [batch([0])], tmp_path, max_steps=1)
    given, out = batch([0]), []
    hook = stage.validation_step
    stage.validation_step = lambda *args: out.append(hook(*args)) or out[-1]
    trainer.validate(stage, DataLoader([given], batch_size=None), verbose=False)
    assert torch.equal(out[0]["hr"], given["hr"][:, :, :13]) and torch.equal(out[0]["lr"], given["lr"][:, :, :13])
    assert out[0]["sr"].shape == out[0]["hr"].shape and out[0]["sr"].abs().max() <= 1
    assert torch.isfinite(trainer.callback_metrics["val/psnr"])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_trains_in_bf16(name, precision, tmp_path):
    stage = make_stage(name)
    trainer = _fit(stage, [batch([0], images=name == "joint")], tmp_path, precision=precision)
    metrics = trainer.logged_metrics
    assert metrics and all(torch.isfinite(value) for value in metrics.values())
    exact = _fit(make_stage(name), [batch([0], images=name == "joint")], tmp_path).logged_metrics
    key = "train/flow" if name != "one_step" else "train/reconstruction"
    torch.testing.assert_close(metrics[key].float(), exact[key], rtol=0.05, atol=0)


@pytest.mark.parametrize("name", STAGES)
def test_a_checkpoint_leaves_frozen_networks_out_and_loads_strictly(name):
    stage = make_stage(name, **({"train_decoder": False} if name == "one_step" else {}))
    saved = {key: value.clone() for key, value in stage.state_dict().items()}
    assert not {key.split(".")[0] for key in saved} & {"vae", "score", "score_projection", "decoder", "prompt"}
    with torch.no_grad():
        for parameter in stage.dit.parameters():
            parameter.zero_()
    vae = _snapshot(stage.vae)
    stage.load_state_dict(dict(saved), strict=True)
    assert torch.equal(stage.state_dict()["dit.head.head.weight"], saved["dit.head.head.weight"])
    assert all(torch.equal(dict(stage.vae.named_parameters())[key], value) for key, value in vae.items())
    saved.pop("dit.head.head.weight")
    with pytest.raises(RuntimeError, match=r"Missing key.*dit\.head\.head\.weight"):
        stage.load_state_dict(saved, strict=True)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"dmd_weight=1\.0 needs score"):
        make_stage("one_step", fake_optimizer=None)
    with pytest.raises(ValueError, match=r"adversarial_weight=0\.5 needs discriminator"):
        make_stage("one_step", adversarial_weight=0.5)
    with pytest.raises(ValueError, match="generator_every is at least 1, got 0"):
        make_stage("one_step", generator_every=0)
    with pytest.raises(ValueError, match=r"\[1, L, text_dim\], got \[3, 8\]"):
        make_stage("joint", prompt=torch.zeros(3, 8))
    stage = make_stage("joint")
    with pytest.raises(ValueError, match="no parameter of dit, projection has requires_grad"):
        type(stage)(
            *(x.requires_grad_(False) for x in (stage.dit, stage.projection, stage.vae)),
            stage.schedule,
            stage.optimizer,
        )


def test_a_one_step_stage_without_any_loss_is_refused():
    with pytest.raises(ValueError, match=r"one is positive.*dmd_weight=0\.0, reconstruction_weight=0\.0"):
        make_stage("one_step", dmd_weight=0.0, reconstruction_weight=0.0, latent_weight=0.0)
    with pytest.raises(ValueError, match=r"at least 0.*latent_weight=-1\.0"):
        make_stage("one_step", latent_weight=-1.0)


def test_the_one_step_stage_refuses_scaled_gradients_before_it_trains(tmp_path):
    stage = make_stage("one_step")
    stage.trainer = SimpleNamespace(precision="16-mixed")  # Lightning itself refuses it on a CPU
    with pytest.raises(ValueError, match=r"does not train in 16-mixed.*use bf16-mixed"):
        stage.setup("fit")
    stage.setup("validate")


def test_frames_that_do_not_fit_are_refused(tmp_path):
    wrong = {key: value[None] for key, value in sample(0, frames=16).items()}
    with pytest.raises(ValueError, match=r"4n \+ 1 frames, at least 5, and an image 1; got 16"):
        _fit(make_stage("sparse"), [wrong], tmp_path)
    wrong = {**batch([0]), "lr": batch([0])["lr"][..., ::4, ::4]}
    with pytest.raises(ValueError, match="upsampled to the size of hr"):
        _fit(make_stage("sparse"), [wrong], tmp_path)


@pytest.mark.slow  # three processes import Lightning and train five stages under two strategies
def test_two_processes_of_ddp_and_of_fsdp2_train_every_stage_as_one_process_does(assert_trains_like_one_process):
    assert_trains_like_one_process(Path(__file__).with_name("spread.py"))
