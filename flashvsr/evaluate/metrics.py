"""Metrics of a clip, fed frame by frame.

PSNR, SSIM and MS-SSIM are torchmetrics', on luma (BT.601, limited range, as super-resolution papers report it) and on
RGB; nothing is cropped at the border, and a clip's figure is the mean over its frames. VMAF is torchmetrics', too: see
:mod:`flashvsr.evaluate.vmaf`. The warping error is explained in :mod:`flashvsr.evaluate.warping`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from flashvsr.evaluate.columns import NO_REFERENCE, check_metrics, columns_of
from flashvsr.evaluate.features import kernel_distance, lite_features, stacked
from flashvsr.evaluate.naturalness import SHORTEST, niqe
from flashvsr.evaluate.scorers import VideoScorer, frame_scorer, one_number, pair_scorer, video_difference
from flashvsr.evaluate.vmaf import Vmaf
from flashvsr.evaluate.warping import PairWarp

GROUND_TRUTH = "ground truth"
WARP_UNIT = 1e3  # warping errors are given in thousandths
KID_UNIT = 1e3  # likewise
_MS_SSIM_SHORTEST = 176  # torchmetrics: five scales of an 11-pixel window


def luma_bt601(rgb: Tensor) -> Tensor:
    """Luma as MATLAB's rgb2ycbcr gives it: BT.601, limited range.

    Args:
        rgb: `[..., 3, H, W]`, floating point in [0, 1].

    Returns:
        `[..., 1, H, W]` in [16/255, 235/255], not rounded.

    Reference:
        ITU-R BT.601-7, section 2.5.
    """
    red, green, blue = rgb.unsqueeze(-4).unbind(-3)
    return (65.481 * red + 128.553 * green + 24.966 * blue + 16) / 255


class ClipMeter:
    """The metrics of one clip, for several methods at once; memory does not grow with the clip.

    The flow between two frames of the ground truth is estimated once for all methods.

    Args:
        methods: Names of what is compared with the ground truth.
        metrics: Names, of :data:`~flashvsr.evaluate.columns.COLUMNS`; none that
            :func:`~flashvsr.evaluate.scorers.missing_metrics` names.
        device: Where to compute.
        dover: Computes DOVER, see :meth:`add_clip`.

    Raises:
        ValueError: If a metric is unknown.

    Attributes:
        notes: Why a column is empty for this clip.
    """

    def __init__(
        self,
        methods: Sequence[str],
        metrics: Sequence[str] = ("psnr", "ssim", "ms_ssim", "vmaf", "warping"),
        device: torch.device | str = "cpu",
        dover: VideoScorer | None = None,
    ) -> None:
        check_metrics(metrics)
        self._dover = dover if "dover" in metrics else None
        self._metrics, self._device = tuple(metrics), torch.device(device)
        self.notes: dict[str, str] = {}
        self._methods = tuple(methods)
        names = (*methods, GROUND_TRUTH)
        self._values: dict[str, dict[str, list[Tensor]]] = {name: {} for name in names}
        self._vmaf = {name: Vmaf() for name in methods} if "vmaf" in metrics else {}
        self._before: dict[str, Tensor] = {}
        kept = names if {"lite_kid", "pooled_kid"} & set(metrics) else ()
        self._patches: dict[str, list[Tensor]] = {name: [] for name in kept}

    @torch.inference_mode()
    def add(self, truth: Tensor | None, outputs: Mapping[str, Tensor]) -> None:
        """Take the next frame.

        Args:
            truth: The ground truth `[3, H, W]`, uint8; None when there is none: metrics that compare have no figures.
            outputs: The frame of every method, of the same shape and dtype.

        Raises:
            ValueError: If a shape or dtype differs, or a scorer gives something else than a number.
        """
        for name, frame in outputs.items():
            expected = frame if truth is None else truth
            if frame.shape != expected.shape or {frame.dtype, expected.dtype} != {torch.uint8}:
                raise ValueError(
                    f"{name} gave a frame {list(frame.shape)} of {frame.dtype}, the ground truth is "
                    f"{list(expected.shape)} of {expected.dtype}; both are uint8 and of one size"
                )
        shown = outputs if truth is None else {**outputs, GROUND_TRUTH: truth}
        levels = {name: frame.to(self._device) for name, frame in shown.items()}
        unit = {name: frame[None].float() / 255 for name, frame in levels.items()}
        with exact():
            for name, frame in unit.items():
                self._judge(name, frame)
            if truth is None:
                reason = "there is no ground truth"
                compared = [metric for metric in self._metrics if metric not in NO_REFERENCE]
                self.notes.update(dict.fromkeys(columns_of(compared), reason))
                return
            for name in outputs:
                self._compare(name, unit[GROUND_TRUTH], unit[name])
            for name, patches in self._patches.items():
                patches.append(lite_features(str(self._device)).patches(unit[name]))
            for name, vmaf in self._vmaf.items():
                vmaf.add(levels[GROUND_TRUTH], levels[name])
            if "warping" in self._metrics:
                self._warp(unit)

    def add_clip(self, frames: Mapping[str, Tensor]) -> None:
        """Score whole clips, for metrics that see time; call it once.

        Args:
            frames: By method, and by :data:`GROUND_TRUTH` if there is one: `[T, 3, H, W]`, uint8.

        Raises:
            ValueError: If the scorer gives something else than a number.
        """
        if self._dover is not None:
            for name, clip in frames.items():
                self._note(name, "dover", one_number(self._dover(clip), "dover"))
        truth = frames.get(GROUND_TRUTH)
        if "cvvdp" in self._metrics and truth is not None:
            difference = video_difference(str(self._device))
            for name in self._methods:
                score = difference(frames[name].to(self._device), truth.to(self._device))
                self._note(name, "cvvdp", one_number(score, "cvvdp"))

    @torch.inference_mode()
    def result(self) -> dict[str, dict[str, float]]:
        """The figures of the clip so far.

        Returns:
            By method and column, and the warping error of the ground truth under :data:`GROUND_TRUTH`. A column that
            has no figure for this clip is left out, see `notes`. PSNR of identical frames is infinite.
        """
        with exact():
            for name, vmaf in self._vmaf.items():
                if "vmaf" not in self.notes:
                    self._values[name]["vmaf"] = [vmaf.result()]
        self._kernel_distances()
        if "warping" in self._metrics and not self._values[GROUND_TRUTH].get("warp_error"):
            self.notes.setdefault("warp_error", "a single frame has no motion")
        figures: dict[str, dict[str, float]] = {}
        for name, columns in self._values.items():
            figures[name] = {}
            for column, values in columns.items():
                stacked = torch.stack([value.double() for value in values])
                kept = stacked[~stacked.isnan()] if column == "warp_error" else stacked  # NaN: a cut
                if len(kept) and not kept.isnan().any():
                    figures[name][column] = float(kept.mean())
                else:
                    cut = column == "warp_error"
                    self.notes[column] = "every pair of frames is a cut" if cut else f"{name} got no number"
        return figures

    def patches(self) -> dict[str, Tensor]:
        """Features of the 64x64 parts of all frames so far, `[n, 1280]`: by method, and of the truth.

        Empty unless ``lite_kid`` or ``pooled_kid`` was asked for; n is 0 for frames that are too small, or without a
        truth.
        """
        return {name: stacked(patches) for name, patches in self._patches.items()}

    def _note(self, name: str, column: str, value: Tensor) -> None:
        self._values[name].setdefault(column, []).append(value)

    def _compare(self, name: str, truth: Tensor, frame: Tensor) -> None:
        """Metrics of one frame, `[1, 3, H, W]` in [0, 1]."""
        for kind, ours, theirs in (("y", luma_bt601(frame), luma_bt601(truth)), ("rgb", frame, truth)):
            if "psnr" in self._metrics:
                psnr = peak_signal_noise_ratio(ours.double(), theirs.double(), data_range=1.0)
                self._note(name, f"psnr_{kind}", psnr)
            if "ssim" in self._metrics:
                self._note(name, f"ssim_{kind}", structural_similarity(ours, theirs).mean())
            if "ms_ssim" in self._metrics:
                self._multiscale(name, f"ms_ssim_{kind}", ours, theirs)
        if "lite" in self._metrics:
            self._note(name, "lite", one_number(lite_features(str(self._device)).distance(frame, truth), "lite"))
        for metric in ("lpips", "dists"):
            if metric in self._metrics:
                score = pair_scorer(metric, str(self._device))(frame, truth)
                self._note(name, metric, one_number(score, metric))

    def _judge(self, name: str, frame: Tensor) -> None:
        """Metrics of one frame that need no other."""
        if "niqe_skvideo" in self._metrics:
            if min(frame.shape[-2:]) < SHORTEST:
                self.notes["niqe_skvideo"] = f"frames shorter than {SHORTEST} pixels are too small for its patches"
            else:
                self._note(name, "niqe_skvideo", one_number(niqe(255 * luma_bt601(frame)[0, 0]), "niqe_skvideo"))
        for metric in ("niqe", "musiq", "clipiqa"):
            if metric in self._metrics:
                score = frame_scorer(metric, str(self._device))(frame)
                self._note(name, metric, one_number(score, metric))

    def _kernel_distances(self) -> None:
        """Note the lite-KID of each method against the truth, over the parts of all frames."""
        if "lite_kid" not in self._metrics or "lite_kid" in self.notes:
            return
        found = self.patches()
        if len(found[GROUND_TRUTH]) < 2:
            self.notes["lite_kid"] = "a clip has fewer than two parts of 64x64 pixels"
            return
        for name in self._methods:
            self._values[name]["lite_kid"] = [KID_UNIT * kernel_distance(found[name], found[GROUND_TRUTH])]

    def _multiscale(self, name: str, column: str, ours: Tensor, theirs: Tensor) -> None:
        if min(ours.shape[-2:]) < _MS_SSIM_SHORTEST:
            self.notes[column] = f"frames shorter than {_MS_SSIM_SHORTEST} pixels are too small for its five scales"
            return
        value = multiscale_structural_similarity_index_measure(ours, theirs, data_range=1.0)
        assert isinstance(value, Tensor)
        self._note(name, column, value)

    def _warp(self, unit: dict[str, Tensor]) -> None:
        before, self._before = self._before, unit
        if before:
            pair = PairWarp(luma_bt601(before[GROUND_TRUTH]), luma_bt601(unit[GROUND_TRUTH]))
            for name, frame in unit.items():
                self._note(name, "warp_error", WARP_UNIT * pair.error(before[name], frame))


def structural_similarity(ours: Tensor, theirs: Tensor) -> Tensor:
    """SSIM of each picture: a Gaussian window of 11 pixels, sigma 1.5.

    Args:
        ours: `[B, C, H, W]`, floating point in [0, 1].
        theirs: Of the same shape.

    Returns:
        `[B]`.
    """
    value = structural_similarity_index_measure(ours, theirs, data_range=1.0, reduction="none")
    assert isinstance(value, Tensor)
    return value.reshape(-1)


def exact() -> Any:
    """A context in which convolutions of CUDA are exact and the same every time: no TF32, no autotuning."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
