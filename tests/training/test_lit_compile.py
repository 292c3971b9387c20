"""Compiled networks train as plain ones do, and a name that the stage does not have is refused."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader

from flashvsr.training.lit_compile import CompileNetworks
from tests.distill.toy_stages import batch, make_stage


class _Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(trainer.callback_metrics["train/flow"]))


def _train(tmp_path, *callbacks):
    stage, losses = make_stage("joint"), _Losses()
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[*callbacks, losses], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(stage, DataLoader([batch([0]), batch([1]), batch([0])], batch_size=None))
    return losses.losses, stage.state_dict()


def test_compiled_networks_have_the_losses_and_weights_of_plain_ones(tmp_path):
    losses, weights = _train(tmp_path)
    torch._dynamo.reset()
    counters.clear()
    compiled, same = _train(tmp_path, CompileNetworks(["dit", "projection", "decoder"], backend="aot_eager"))
    assert counters["stats"]["unique_graphs"] >= 2  # of the transformer and of the projection; there is no decoder
    assert compiled == pytest.approx(losses, rel=1e-4)
    assert same.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(same[name], value, rtol=1e-3, atol=1e-5)


class _Layer(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def training_step(self, batch, batch_idx):
        return self.layer(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.layer(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_validation_between_two_trainings_compiles_nothing(tmp_path):
    torch._dynamo.reset()
    counters.clear()
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, callbacks=[CompileNetworks(["layer"], backend="eager")], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(_Layer(), DataLoader([torch.zeros(2, 4)], None), DataLoader([torch.zeros(3, 4)], None))
    assert counters["stats"]["unique_graphs"] == 1


def test_a_network_that_the_stage_does_not_have_is_named_with_those_that_it_has(tmp_path):
    with pytest.raises(ValueError, match=r"no network 'dot'; it has dit, projection, vae"):
        _train(tmp_path, CompileNetworks(["dot"]))
    with pytest.raises(ValueError, match=r"\[dit, projection\]"):
        CompileNetworks([])
