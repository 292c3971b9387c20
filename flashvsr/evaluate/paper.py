"""What the paper reports on the public test sets."""

from __future__ import annotations

from collections.abc import Mapping

COLUMNS = ("psnr_rgb", "ssim_rgb", "lpips", "musiq", "clipiqa", "dover")

_FIGURES: dict[str, dict[str, tuple[float | None, ...]]] = {
    "youhq40": {
        "FlashVSR-Full": (23.13, 0.6004, 0.3874, 69.16, 0.5873, 12.71),
        "FlashVSR-Tiny": (23.31, 0.6110, 0.3866, 66.63, 0.5221, 12.66),
    },
    "reds4": {
        "FlashVSR-Full": (23.92, 0.6491, 0.3439, 68.97, 0.4661, 8.734),
        "FlashVSR-Tiny": (24.11, 0.6511, 0.3432, 67.43, 0.4215, 8.665),
    },
    "spmcs": {
        "FlashVSR-Full": (23.84, 0.6346, 0.3436, 71.05, 0.5792, 9.456),
        "FlashVSR-Tiny": (24.02, 0.6450, 0.3451, 69.77, 0.5238, 9.426),
    },
    "videolq": {
        "FlashVSR-Full": (None, None, None, 55.48, 0.4184, 8.149),
        "FlashVSR-Tiny": (None, None, None, 52.27, 0.3601, 7.481),
    },
}

CAUTION = (
    "The paper's figures are from its own LR clips and its own settings of the metrics. Not known are the seeds of its "
    "degradation, whether its PSNR and SSIM are of luma or RGB (they stand beside RGB here), which network its LPIPS "
    "uses, and the scale of its DOVER."
)
REDS = "The paper says REDS, and not which clips."


def published(suite: str) -> Mapping[str, Mapping[str, float]]:
    """The paper's figures for a test set.

    Args:
        suite: Name of a test set, of :data:`~flashvsr.evaluate.suites.SUITES`, or anything else.

    Returns:
        By model and column; empty when the paper has none.

    Reference:
        FlashVSR, https://arxiv.org/abs/2510.12747, table of quantitative comparisons.
    """
    return {
        f"{model} (paper)": {column: value for column, value in zip(COLUMNS, values, strict=True) if value is not None}
        for model, values in _FIGURES.get(suite, {}).items()
    }


def cautions(suite: str) -> list[str]:
    """What to know before comparing with the paper's figures; or that there are none."""
    if suite not in _FIGURES:
        return ["The paper has no figures for these clips."]
    return [CAUTION, REDS] if suite == "reds4" else [CAUTION]
