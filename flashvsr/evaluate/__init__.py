"""Judge an upscaler: metrics, tables and pictures.

* ``evaluate``: clips, methods and seeds in, all figures out; ``BASELINES`` are bicubic and Lanczos
* ``find_clips``, ``read_clip``, ``read_low_clip``: ground truth from files, and LR clips that have none
* ``encoded_lr``: LR clips by FFmpeg's filters and H.264, other means than those of training
* ``find_suite``, ``SUITES``: the public test sets as they lie on disk
* ``ClipMeter``: PSNR, SSIM, MS-SSIM, VMAF, warping error, LPIPS, DISTS, NIQE, MUSIQ, CLIPIQA, DOVER,
  ColorVideoVDP and distances in features of EfficientNet-lite0 of one clip
* ``missing_metrics``: which of them cannot be computed here, and why
* ``pooled_distances``: the kernel distance over the parts of all clips, with its spread over clips
* ``WholeClip``: a model that cannot stream, as a method; ``scaled_latents``, ``ShuffledLatents``: its ablations
* ``WarpingLoss``: flicker along the motion of the truth, as a term of a loss
* ``mean_table``, ``clip_table``, ``to_csv``, ``to_json``: the figures to read and to keep
* ``suite_table``, ``suite_csv``: the paper's figures beside ours, with intervals over clips
* ``strip``, ``side_by_side``: pictures and clips beside each other
"""

from flashvsr.evaluate.clips import LowClip, ReferenceClip, find_clips, read_clip, read_low_clip, resize
from flashvsr.evaluate.columns import COLUMNS, NO_REFERENCE
from flashvsr.evaluate.comparison import suite_csv, suite_table
from flashvsr.evaluate.encoded import encoded_lr
from flashvsr.evaluate.intervals import half_width, student_quantile
from flashvsr.evaluate.metrics import ClipMeter, luma_bt601
from flashvsr.evaluate.paper import published
from flashvsr.evaluate.pooled_distance import pooled_distances
from flashvsr.evaluate.run import BASELINES, ClipOutputs, ClipScores, Results, bicubic_lr, clip_seed, evaluate
from flashvsr.evaluate.scorers import load_video_scorer, missing_metrics
from flashvsr.evaluate.strips import Box, liveliest, side_by_side, strip
from flashvsr.evaluate.suites import SUITES, FoundSuite, Suite, find_suite
from flashvsr.evaluate.tables import clip_table, mean_figures, mean_table, to_csv, to_json
from flashvsr.evaluate.warping import PairWarp, WarpingLoss, estimate_flow, visible, warp
from flashvsr.evaluate.whole_clip import ShuffledLatents, WholeClip, scaled_latents, without_latents, without_velocity

__all__ = [
    "BASELINES",
    "COLUMNS",
    "NO_REFERENCE",
    "SUITES",
    "Box",
    "ClipMeter",
    "ClipOutputs",
    "ClipScores",
    "FoundSuite",
    "LowClip",
    "PairWarp",
    "ReferenceClip",
    "Results",
    "ShuffledLatents",
    "Suite",
    "WarpingLoss",
    "WholeClip",
    "bicubic_lr",
    "clip_seed",
    "clip_table",
    "encoded_lr",
    "estimate_flow",
    "evaluate",
    "find_clips",
    "find_suite",
    "half_width",
    "liveliest",
    "load_video_scorer",
    "luma_bt601",
    "mean_figures",
    "mean_table",
    "missing_metrics",
    "pooled_distances",
    "published",
    "read_clip",
    "read_low_clip",
    "resize",
    "scaled_latents",
    "side_by_side",
    "strip",
    "student_quantile",
    "suite_csv",
    "suite_table",
    "to_csv",
    "to_json",
    "visible",
    "warp",
    "without_latents",
    "without_velocity",
]
