"""Scores that need weights: LAION-Aesthetic and MUSIQ through pyiqa, RAFT through torchvision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from time import perf_counter
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from flashvsr.curate import CurateError
from flashvsr.curate.rows import Row
from flashvsr.curate.rules import CurateRules
from flashvsr.curate.stages.scores import motion_of_flow

PYIQA_NAMES = {"aesthetic": "laion_aes", "musiq": "musiq"}
_FLOW_SIDE = 360  # pixels: short side that RAFT sees


class Scorers:
    """All scorers with weights that a recipe names, on the GPU if there is one.

    Args:
        rules: The recipe.

    Raises:
        CurateError: If a package or weights cannot be had; says how to get them or do without.
    """

    def __init__(self, rules: CurateRules) -> None:
        self._rules = rules
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._metrics = {name: _pyiqa(name, self._device) for name in rules.scorers}
        self._raft = _raft(self._device) if rules.flow == "raft" else None

    def __call__(self, row: Row) -> Row:
        """The row with these scores too; its pictures are dropped.

        What a scorer cannot digest, such as a picture too large for its memory, is rejected. A GPU that fails ends the
        run instead: the pictures are not to blame, and a later run goes on.
        """
        try:
            return self._scored(row)
        except torch.AcceleratorError:
            raise
        except (RuntimeError, ValueError, AssertionError) as error:
            return row.rejected("quality", f"a scorer failed: {type(error).__name__}")

    @torch.no_grad()
    def _scored(self, row: Row) -> Row:
        pictures, later = row.pictures, row.later
        if pictures is None:
            return row
        start = perf_counter()
        frames = [_floats(picture, self._device) for picture in pictures]
        row = row.scored("quality", self._rules, {name: self._score(name, frames) for name in self._metrics})
        row, start = row.timed("quality", perf_counter() - start), perf_counter()
        if row.stage is None and later is not None and self._raft is not None:
            flows = [
                self._flow(frame, _floats(picture, self._device)) for frame, picture in zip(frames, later, strict=True)
            ]
            motion = float(np.mean([motion_of_flow(flow, row.gap) for flow in flows]))
            row = row.scored("motion", self._rules, {"motion": motion}).timed("motion", perf_counter() - start)
        return replace(row, pictures=None, later=None)

    def _score(self, name: str, frames: list[Tensor]) -> float:
        parts = [part for frame in frames for part in ((frame, *_corners(frame)) if name == "musiq" else (frame,))]
        return float(np.mean([float(self._metrics[name](part)) for part in parts]))

    def _flow(self, first: Tensor, second: Tensor) -> np.ndarray[Any, Any]:
        scale = _FLOW_SIDE / min(first.shape[-2:])
        size = [8 * round(side * scale / 8) for side in first.shape[-2:]]
        assert self._raft is not None
        pair = [interpolate(frame, size, mode="bilinear", antialias=True) * 2 - 1 for frame in (first, second)]
        return self._raft(*pair)[-1][0].permute(1, 2, 0).cpu().numpy()


def _floats(picture: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """`[1, 3, h, w]` in [0, 1]."""
    return torch.from_numpy(picture).to(device).permute(2, 0, 1)[None].float() / 255


def _corners(frame: Tensor) -> list[Tensor]:
    """The four quarters of `[1, 3, h, w]`."""
    height, width = frame.shape[-2] // 2, frame.shape[-1] // 2
    return [frame[..., rows, columns] for rows in _ends(height) for columns in _ends(width)]


def _ends(length: int) -> tuple[slice, slice]:
    return slice(None, length), slice(-length, None)


def _pyiqa(name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    instead = f"or leave {name} out of `scorers` (recipes/curate/small.yaml uses none)"
    try:
        pyiqa = import_module("pyiqa")
    except ImportError as error:
        raise CurateError(f"the scorer {name} needs pyiqa: {error}\npip install 'flashvsr[iqa]', {instead}") from error
    try:
        return pyiqa.create_metric(PYIQA_NAMES[name], device=device)
    except (OSError, URLError, RuntimeError) as error:
        raise CurateError(
            f"the weights of the scorer {name} cannot be had: {str(error).splitlines()[0]}\n"
            f"let this machine reach huggingface.co once, {instead}"
        ) from error


def _raft(device: torch.device) -> Callable[[Tensor, Tensor], list[Tensor]]:
    from torchvision.models.optical_flow import Raft_Large_Weights, raft_large

    try:
        return raft_large(weights=Raft_Large_Weights.DEFAULT).eval().to(device)
    except (OSError, URLError, RuntimeError) as error:
        folder = torch.hub.get_dir()
        raise CurateError(
            f"the weights of RAFT cannot be had: {str(error).splitlines()[0]}\n"
            f"put {Raft_Large_Weights.DEFAULT.url} into {folder}/checkpoints, or set `flow: dis`, which needs none"
        ) from error
