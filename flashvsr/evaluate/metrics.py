"""Metrics of a clip, fed frame by frame.

PSNR, SSIM and MS-SSIM are torchmetrics', on luma (BT.601, limited range, as super-resolution papers report it) and on
RGB; nothing is cropped at the border, and a clip's figure is the mean over its frames. VMAF is torchmetrics', too: see
:mod:`flashvsr.evaluate.vmaf`. The warping error is explained in :mod:`flashvsr.evaluate.warping`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from flashvsr.evaluate.vmaf import Vmaf
from flashvsr.evaluate.warping import PairWarp

COLUMNS = {
    "psnr": ("psnr_y", "psnr_rgb"),
    "ssim": ("ssim_y", "ssim_rgb"),
    "ms_ssim": ("ms_ssim_y", "ms_ssim_rgb"),
    "vmaf": ("vmaf",),
    "warping": ("warp_error",),
    "lpips": ("lpips",),
}
"""Metrics a person asks for, and the columns each gives."""

LOWER_IS_BETTER = ("warp_error", "lpips")
GROUND_TRUTH = "ground truth"
WARP_UNIT = 1e3  # warping errors are given in thousandths
_MS_SSIM_SHORTEST = 176  # torchmetrics: five scales of an 11-pixel window
_ALEXNET = "alexnet-owt-7be5be79.pth"


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


def missing_metrics(metrics: Sequence[str]) -> dict[str, str]:
    """Which metrics cannot be computed here, and why; nothing is downloaded.

    Args:
        metrics: Names, of :data:`COLUMNS`.

    Returns:
        Reasons by name; empty when all can.

    Raises:
        ValueError: If a name is unknown.
    """
    missing = {}
    for metric in metrics:
        if metric not in COLUMNS:
            raise ValueError(f"metrics are {', '.join(COLUMNS)}; got {metric!r}")
    if "vmaf" in metrics and find_spec("vmaf_torch") is None:
        missing["vmaf"] = "the package vmaf-torch is not installed: pip install flashvsr[train]"
    if "lpips" in metrics:
        weights = Path(torch.hub.get_dir()) / "checkpoints" / _ALEXNET
        if find_spec("torchvision") is None:
            missing["lpips"] = "the package torchvision is not installed: pip install torchvision"
        elif not weights.is_file():
            fetch = "python -c \"import torchvision; torchvision.models.alexnet(weights='DEFAULT')\""
            missing["lpips"] = f"its AlexNet weights (233 MiB) are not at {weights}; fetch them once: {fetch}"
    return missing


class ClipMeter:
    """The metrics of one clip, for several methods at once; memory does not grow with the clip.

    The flow between two frames of the ground truth is estimated once for all methods.

    Args:
        methods: Names of what is compared with the ground truth.
        metrics: Names, of :data:`COLUMNS`; none that :func:`missing_metrics` names.
        device: Where to compute.

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
    ) -> None:
        missing_metrics(metrics)
        self._metrics, self._device = tuple(metrics), torch.device(device)
        self.notes: dict[str, str] = {}
        names = (*methods, GROUND_TRUTH)
        self._values: dict[str, dict[str, list[Tensor]]] = {name: {} for name in names}
        self._vmaf = {name: Vmaf() for name in methods} if "vmaf" in metrics else {}
        self._before: dict[str, Tensor] = {}

    @torch.inference_mode()
    def add(self, truth: Tensor, outputs: Mapping[str, Tensor]) -> None:
        """Take the next frame.

        Args:
            truth: The ground truth `[3, H, W]`, uint8.
            outputs: The frame of every method, of the same shape and dtype.

        Raises:
            ValueError: If a shape or dtype differs.
        """
        for name, frame in outputs.items():
            if frame.shape != truth.shape or frame.dtype != torch.uint8 or truth.dtype != torch.uint8:
                raise ValueError(
                    f"{name} gave a frame {list(frame.shape)} of {frame.dtype}, the ground truth is "
                    f"{list(truth.shape)} of {truth.dtype}; both are uint8 and of one size"
                )
        levels = {name: frame.to(self._device) for name, frame in {**outputs, GROUND_TRUTH: truth}.items()}
        unit = {name: frame[None].float() / 255 for name, frame in levels.items()}
        with exact():
            for name in outputs:
                self._compare(name, unit[GROUND_TRUTH], unit[name])
            for name, vmaf in self._vmaf.items():
                vmaf.add(levels[GROUND_TRUTH], levels[name])
            if "warping" in self._metrics:
                self._warp(unit)

    @torch.inference_mode()
    def result(self) -> dict[str, dict[str, float]]:
        """The figures of the clip so far.

        Returns:
            By method and column, and the warping error of the ground truth under :data:`GROUND_TRUTH`. A column that
            has no figure for this clip is left out, see `notes`. PSNR of identical frames is infinite.
        """
        with exact():
            for name, vmaf in self._vmaf.items():
                self._values[name]["vmaf"] = [vmaf.result()]
        if "warping" in self._metrics and not self._values[GROUND_TRUTH].get("warp_error"):
            self.notes["warp_error"] = "a single frame has no motion"
        figures: dict[str, dict[str, float]] = {}
        for name, columns in self._values.items():
            figures[name] = {}
            for column, values in columns.items():
                stacked = torch.stack([value.double() for value in values])
                kept = stacked[~stacked.isnan()]  # NaN: a cut has no warping error
                if len(kept):
                    figures[name][column] = float(kept.mean())
                else:
                    self.notes[column] = "every pair of frames is a cut"
        return figures

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
        if "lpips" in self._metrics:
            self._note(name, "lpips", _lpips(str(self._device))(frame, truth))

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


@cache
def _lpips(device: str) -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device).eval()
