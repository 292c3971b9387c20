"""The validation callback, in a Lightning run of a toy stage."""

from __future__ import annotations

import lightning
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from PIL import Image

from flashvsr.evaluate.lit import ValidationPictures, validation_figures


class _Stage(lightning.LightningModule):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def validation_step(self, batch, index):
        return self.outputs


def _outputs(frames: int = 5, error: float = 0.02):
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(2, 3, frames, 16, 24, generator=generator) * 1.6 - 0.8
    return {"lr": hr + 2 * error, "sr": hr[:, :, : max(1, frames - 4)] + error, "hr": hr}


def _validate(tmp_path, outputs, logger, **options):
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=[ValidationPictures(**options)],
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    batches = torch.utils.data.DataLoader(torch.zeros(3, 1), batch_size=1)
    return trainer.validate(_Stage(outputs), batches, verbose=False)[0]


def test_figures_and_gains_over_bicubic_are_logged(tmp_path):
    logged = _validate(tmp_path, _outputs(), CSVLogger(tmp_path))
    assert logged["val/psnr_y_gain"] == pytest.approx(20 * torch.log10(torch.tensor(2.0)).item(), abs=0.3)
    assert logged["val/psnr_y"] > 40 and 0 < logged["val/ssim_y_gain"] < 1 > logged["val/ssim_y"]


def test_without_tensorboard_pictures_are_files_and_only_as_many_as_asked(tmp_path):
    logger = CSVLogger(tmp_path)
    _validate(tmp_path, _outputs(frames=6), logger, samples=3)
    files = sorted(file.name for file in (tmp_path / "lightning_logs/version_0/pictures").iterdir())
    assert files == [f"step_00000000_{n}.{kind}" for n in range(3) for kind in ("gif", "png")]
    picture = Image.open(tmp_path / "lightning_logs/version_0/pictures/step_00000000_0.png")
    assert picture.width > 3 * 240
    movie = Image.open(tmp_path / "lightning_logs/version_0/pictures/step_00000000_0.gif")
    assert movie.n_frames == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_asks_for_the_folder_of_the_log_which_rank_0_sends_to_all(rank):
    class OnOneOfTwo:
        default_root_dir, sanity_checking, global_rank, is_global_zero, asked = ".", False, rank, rank == 0, 0

        @property
        def log_dir(self):
            self.asked += 1

    trainer, pictures = OnOneOfTwo(), ValidationPictures(samples=4)
    pictures.on_validation_epoch_start(trainer, None)
    pictures.on_validation_batch_end(trainer, None, None, None, 0)
    assert trainer.asked == 1


def test_tensorboard_gets_strips_and_clips(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorBoardLogger(tmp_path)
    _validate(tmp_path, _outputs(frames=6), logger, samples=1)
    logger.experiment.flush()
    events = accumulator.EventAccumulator(logger.log_dir).Reload()
    assert sorted(events.Tags()["images"]) == ["val/clip_0", "val/strip_0"]
    assert events.Images("val/clip_0")[0].encoded_image_string.startswith(b"GIF")
    assert not list(tmp_path.rglob("*.png"))


def test_a_perfect_output_gives_finite_figures():
    hr = torch.randint(0, 256, (1, 2, 3, 16, 16), dtype=torch.uint8)
    figures = validation_figures({"lr": hr, "sr": hr, "hr": hr})
    assert figures["psnr_y"] == 100 and figures["psnr_y_gain"] == 0
    assert figures["ssim_y"] == pytest.approx(1, abs=1e-5)


def test_a_stage_without_frames_is_left_alone_and_a_wrong_output_refused(tmp_path):
    with pytest.warns(UserWarning, match="_Stage.validation_step returns no frames"):
        assert _validate(tmp_path, None, False) == {}
    with pytest.raises(ValueError, match="lr, sr and hr; got Tensor"):
        _validate(tmp_path, torch.zeros(()), False)
    outputs = _outputs()
    outputs["lr"] = outputs["lr"][..., :8]
    with pytest.raises(ValueError, match=r"lr \[2, 3, 5, 16, 8\]"):
        _validate(tmp_path, outputs, False)
    with pytest.raises(ValueError, match="every"):
        ValidationPictures(every=0)
