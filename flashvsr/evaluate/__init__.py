"""Judge an upscaler: metrics, tables and pictures.

* ``evaluate``: clips, methods and seeds in, all figures out; ``BASELINES`` are bicubic and Lanczos
* ``find_clips``, ``read_clip``: ground truth from files
* ``ClipMeter``: PSNR, SSIM, MS-SSIM, VMAF, warping error and LPIPS of one clip, frame by frame
* ``WholeClip``: a model that cannot stream, as a method
* ``mean_table``, ``clip_table``, ``to_csv``, ``to_json``: the figures to read and to keep
* ``strip``, ``side_by_side``: pictures and clips beside each other
"""

from flashvsr.evaluate.clips import Clip, find_clips, read_clip, resize
from flashvsr.evaluate.metrics import COLUMNS, ClipMeter, luma_bt601, missing_metrics
from flashvsr.evaluate.run import BASELINES, Results, Row, Sample, bicubic_lr, clip_seed, evaluate
from flashvsr.evaluate.strips import Box, liveliest, side_by_side, strip
from flashvsr.evaluate.tables import clip_table, mean_figures, mean_table, to_csv, to_json
from flashvsr.evaluate.warping import PairWarp, estimate_flow, visible, warp
from flashvsr.evaluate.whole_clip import WholeClip, without_latents, without_velocity

__all__ = [
    "BASELINES",
    "COLUMNS",
    "Box",
    "Clip",
    "ClipMeter",
    "PairWarp",
    "Results",
    "Row",
    "Sample",
    "WholeClip",
    "bicubic_lr",
    "clip_seed",
    "clip_table",
    "estimate_flow",
    "evaluate",
    "find_clips",
    "liveliest",
    "luma_bt601",
    "mean_figures",
    "mean_table",
    "missing_metrics",
    "read_clip",
    "resize",
    "side_by_side",
    "strip",
    "to_csv",
    "to_json",
    "visible",
    "warp",
    "without_latents",
    "without_velocity",
]
