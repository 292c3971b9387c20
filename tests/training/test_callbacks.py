"""The callbacks of `flashvsr.training.callbacks`, without a training."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from flashvsr.training.callbacks import LastCheckpoint, Throughput, WeightAverage
from flashvsr.training.sharding import freeze


class _Stage(LightningModule):
    """Holds what cannot be copied, as a stage does whose optimizer the command line makes later."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.fixed = nn.Linear(2, 3), nn.Linear(3, 3)
        self.trained.lock = self.lock = threading.Lock()
        self.alias = [self.trained.weight]
        self.register_buffer("count", torch.zeros(2))
        freeze(self, ("fixed",))

    def configure_model(self) -> None:
        self.late = nn.Linear(1, 1)


def test_the_average_copies_tensors_and_shares_all_else():
    stage, callback = _Stage(), WeightAverage()
    callback.setup(Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), stage, "fit")
    average = callback._average_model.module
    assert average.lock is stage.lock and average.trained.lock is stage.lock
    assert [name for name, _ in average.named_parameters()] == [name for name, _ in stage.named_parameters()]
    assert average.state_dict().keys() == stage.state_dict().keys()
    assert not any(name.startswith("fixed.") for name in average.state_dict())
    tensors = [*zip(average.parameters(), stage.parameters(), strict=True), (average.count, stage.count)]
    assert all(torch.equal(kept, now) and kept.data_ptr() != now.data_ptr() for kept, now in tensors)
    assert "late.weight" in average.state_dict()
    average.load_state_dict(average.state_dict())


def _write(path: Path, step: int, form: str) -> None:
    """A checkpoint, as the strategies write them: a file, or a folder of each process's share."""
    if form == "folder":
        path.mkdir(parents=True)
        path /= "share"
    path.write_text(str(step))


def _read(path: Path) -> str:
    return (path / "share" if path.is_dir() else path).read_text()


def _save(folder: Path, step: int, form: str) -> None:
    save = SimpleNamespace(
        is_global_zero=True, global_step=step, save_checkpoint=lambda path: _write(Path(path), step, form)
    )
    LastCheckpoint(folder)._save_now(save)


@pytest.mark.parametrize("form", ["file", "folder"])
def test_a_checkpoint_that_is_half_written_leaves_the_one_before(tmp_path, form):
    _save(tmp_path, 1, form)

    def die(path):
        _write(Path(path), 2, form)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        LastCheckpoint(tmp_path)._save_now(SimpleNamespace(is_global_zero=True, global_step=2, save_checkpoint=die))
    assert _read(tmp_path / "last.ckpt") == "1"
    _save(tmp_path, 3, form)
    assert _read(tmp_path / "last.ckpt") == "3"


def _die(*unused: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", ["symlink_to", "replace"])
def test_a_run_killed_while_a_folder_takes_its_place_has_the_one_before(tmp_path, monkeypatch, call):
    _save(tmp_path, 1, "folder")
    with monkeypatch.context() as patch:
        patch.setattr(Path, call, _die)
        with pytest.raises(KeyboardInterrupt):
            _save(tmp_path, 2, "folder")
    assert _read(tmp_path / "last.ckpt") == "1"
    _save(tmp_path, 3, "folder")
    assert _read(tmp_path / "last.ckpt") == "3"


@pytest.mark.parametrize("forms", [["file", "folder", "folder", "file"], ["folder", "file", "folder"]])
def test_only_the_last_checkpoint_stays_whatever_form_it_has(tmp_path, forms):
    for step, form in enumerate(forms):
        _save(tmp_path, step, form)
        assert _read(tmp_path / "last.ckpt") == str(step)
        assert len(list(tmp_path.iterdir())) == (2 if form == "folder" else 1)


def test_a_folder_that_was_copied_there_is_replaced_too(tmp_path):
    _write(tmp_path / "last.ckpt", 1, "folder")
    _save(tmp_path, 2, "folder")
    assert _read(tmp_path / "last.ckpt") == "2"
    assert len(list(tmp_path.iterdir())) == 2


class _Layer(LightningModule):
    """One layer on clips of 16 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 8)

    def training_step(self, batch, batch_idx):
        return self.layer(batch["hr"].flatten(1)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_the_utilisation_counts_the_products_of_both_passes(tmp_path):
    throughput = Throughput(window=2, peak_tflops=1e-6, counted=2)
    clips = [{"hr": torch.randn(4, 1, 2, 8)}] * 4
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[throughput], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(_Layer(), DataLoader(clips, batch_size=None))
    forward = 2 * 4 * 16 * 8
    assert throughput.operations == 2 * forward  # and as many for the weights; the input needs no gradient
    rate = trainer.logged_metrics["train/samples_per_s"] / 4  # steps per second
    torch.testing.assert_close(trainer.logged_metrics["train/mfu"], 2 * forward * rate / 1e6)


def test_a_run_that_goes_on_does_not_count_again(tmp_path):
    first, second = (Throughput(peak_tflops=1.0, counted=2) for _ in range(2))
    counted = []
    for callback, clips in ((first, 3), (second, 3)):
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(_Layer(), DataLoader([{"hr": torch.randn(4, 1, 2, 8)}] * clips, batch_size=None))
        counted.append(callback.state_dict()["operations"])
        second.load_state_dict({"operations": [7]})
    assert counted == [[2048, 2048], [7, 2048]]


def test_a_throughput_that_makes_no_sense_is_refused():
    for wrong in ({"window": 0}, {"counted": 0}, {"peak_tflops": 0.0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=0"):
            Throughput(**wrong)
