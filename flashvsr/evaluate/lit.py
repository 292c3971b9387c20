"""A Lightning callback that measures and shows what a stage makes of the validation batches."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from flashvsr.evaluate.metrics import exact, luma_bt601, structural_similarity
from flashvsr.evaluate.strips import Box, side_by_side, strip

LABELS = {"lr": "LR, bicubic", "sr": "ours", "hr": "HR"}


class ValidationPictures(lightning.Callback):
    """Log PSNR and SSIM of luma, what is gained over bicubic, and LR | ours | HR strips and short clips.

    It reads what ``validation_step`` returns: ``{"lr": ..., "sr": ..., "hr": ...}``, each `[B, 3, T, H, W]` in [-1, 1],
    where lr is the LR clip upsampled with bicubic. ``sr`` may have fewer frames: it is compared with the first of the
    others. A stage that returns None is skipped, with one warning.

    Logged: ``val/psnr_y``, ``val/ssim_y``, ``val/psnr_y_gain`` and ``val/ssim_y_gain``, means over samples and frames
    (BT.601 limited-range luma, frames clamped and rounded to 8 bits). Pictures go to TensorBoard when that is the
    logger, else to PNG and GIF files in ``pictures/`` of the log folder; they are written by rank 0 from its own
    batches.

    Args:
        samples: How many samples to show per validation, from the first batch on.
        fps: Frames per second of the clips.
        every: Show pictures at every so many validations; figures are logged at each.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, samples: int = 4, fps: int = 10, every: int = 1) -> None:
        if samples < 0 or fps < 1 or every < 1:
            raise ValueError(f"samples is at least 0, fps and every at least 1; got {samples}, {fps} and {every}")
        self._samples, self._fps, self._every = samples, fps, every
        self._shown = self._validations = 0
        self._folder = Path()

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin to count pictures anew."""
        # every process asks: the answer is rank 0's, sent to all
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"
        self._shown = 0 if self._validations % self._every == 0 else self._samples
        self._validations += not trainer.sanity_checking

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure the batch, and show its samples while some are wanted.

        Raises:
            ValueError: If the outputs are neither None nor as described.
        """
        if outputs is None:
            rank_zero_warn(f"{type(pl_module).__name__}.validation_step returns no frames: no pictures of it")
            return
        clips = _checked(outputs)
        batch_size = len(clips["hr"])
        for name, value in validation_figures(clips).items():
            pl_module.log(f"val/{name}", value, batch_size=batch_size, sync_dist=True, on_epoch=True, on_step=False)
        if trainer.is_global_zero:
            for index in range(min(batch_size, self._samples - self._shown)):
                sample = {LABELS[name]: clip[index].cpu() for name, clip in clips.items()}
                self._show(trainer, sample, self._shown)
                self._shown += 1

    def _show(self, trainer: lightning.Trainer, sample: dict[str, Tensor], number: int) -> None:
        """Write the middle frame as a strip, and the clip if there is one; `sample` holds `[T, 3, H, W]` in 8 bits."""
        count, _, height, width = sample[LABELS["hr"]].shape
        middle = {label: clip[count // 2] for label, clip in sample.items()}
        sheet = strip(middle, [Box(0, 0, height, width)], zoom=max(1, 256 // width))
        movie = _gif(side_by_side(sample), self._fps) if count > 1 else None
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        for board in boards:
            _to_tensorboard(board, f"val/strip_{number}", _png(sheet), sheet.size, trainer.global_step)
            if movie is not None:
                size = (3 * width, height)
                _to_tensorboard(board, f"val/clip_{number}", movie, size, trainer.global_step)
        if not boards:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"step_{trainer.global_step:08d}_{number}"
            (self._folder / f"{name}.png").write_bytes(_png(sheet))
            if movie is not None:
                (self._folder / f"{name}.gif").write_bytes(movie)


def validation_figures(clips: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """PSNR and SSIM of luma, and the gain over bicubic.

    Args:
        clips: ``lr``, ``sr`` and ``hr``, each `[B, T, 3, H, W]`, uint8.

    Returns:
        ``psnr_y``, ``ssim_y``, ``psnr_y_gain`` and ``ssim_y_gain``: means over samples and frames, 0-d tensors. PSNR of
        a frame that is exact is cut at 100 dB, so that a mean stays finite.
    """
    luma = {name: luma_bt601(clip.flatten(0, 1).float() / 255) for name, clip in clips.items()}
    figures: dict[str, Tensor] = {}
    with exact():
        for name, frames in luma.items():
            if name != "hr":
                psnr = peak_signal_noise_ratio(frames, luma["hr"], data_range=1.0, reduction="none", dim=(1, 2, 3))
                figures[f"psnr_{name}"] = psnr.clamp(max=100).mean()
                figures[f"ssim_{name}"] = structural_similarity(frames, luma["hr"]).mean()
    return {
        "psnr_y": figures["psnr_sr"],
        "ssim_y": figures["ssim_sr"],
        "psnr_y_gain": figures["psnr_sr"] - figures["psnr_lr"],
        "ssim_y_gain": figures["ssim_sr"] - figures["ssim_lr"],
    }


def _checked(outputs: Any) -> dict[str, Tensor]:
    """``lr``, ``sr`` and ``hr`` as `[B, T, 3, H, W]` in 8 bits."""
    missing = [name for name in LABELS if not isinstance(outputs, Mapping) or name not in outputs]
    if missing:
        raise ValueError(
            f"ValidationPictures needs validation_step to return None or a dict with lr, sr and hr; got "
            f"{sorted(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__}"
        )
    count = outputs["sr"].shape[2]
    clips = {name: outputs[name].detach()[:, :, :count] for name in LABELS}
    if len({clip.shape for clip in clips.values()}) > 1:
        shapes = ", ".join(f"{name} {list(outputs[name].shape)}" for name in LABELS)
        raise ValueError(f"lr, sr and hr are [B, 3, T, H, W] of one size, and lr and hr at least as long; got {shapes}")
    return {
        name: clip.float().add(1).mul(127.5).clamp(0, 255).round().to(torch.uint8).transpose(1, 2)
        for name, clip in clips.items()
    }


def _to_tensorboard(board: TensorBoardLogger, tag: str, encoded: bytes, size: tuple[int, int], step: int) -> None:
    """Add an encoded picture: TensorBoard's own ``add_video`` needs moviepy for what Pillow can do."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    picture = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=encoded)
    board.experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)


def _png(sheet: Image.Image) -> bytes:
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _gif(frames: Tensor, fps: int) -> bytes:
    first, *others = (Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy()) for frame in frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    return file.getvalue()
