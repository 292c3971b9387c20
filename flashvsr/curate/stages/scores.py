"""Scores of pictures that need no weights: sharpness, blockiness, exposure, and motion by optical flow."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709
_BLOCK = 8  # pixels: the grid of JPEG, MPEG-2 and of most transforms since
_DARK, _BRIGHT = 3, 252  # of 255: where detail is lost
_NO_GUESS: Any = None  # the search starts from no motion
_SHORT_SIDE = 256  # pixels: what the flow is computed on


def weight_free(pictures: np.ndarray[Any, Any]) -> dict[str, float]:
    """Scores of a segment: each the mean over its pictures, `[frames, h, w, 3]` uint8."""
    scores = [_of_one(picture @ _LUMA) for picture in pictures]
    return {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}


def _of_one(luma: np.ndarray[Any, Any]) -> dict[str, float]:
    return {
        "sharpness": sharpness(luma),
        "blockiness": blockiness(luma),
        "exposure": float(luma.mean() / 2.55),
        "clipped": float(100 * ((luma < _DARK) | (luma > _BRIGHT)).mean()),
    }


def sharpness(luma: np.ndarray[Any, Any]) -> float:
    """Contrast in the finest octave, in per cent of all contrast: what halving the size and doubling it loses.

    A picture that was enlarged has next to none, whatever its contrast; noise counts as detail.

    Args:
        luma: `[h, w]` float, 0 to 255.
    """
    height, width = luma.shape
    small = cv2.resize(luma, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    lost = luma - cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return float(100 * lost.std() / max(float(luma.std()), 1.0))


def blockiness(luma: np.ndarray[Any, Any]) -> float:
    """How much stronger steps are at the borders of 8 x 8 blocks than elsewhere; 1 when there is no grid.

    The grid may begin anywhere (the picture may have been cropped): the strongest of its 8 positions counts.

    Args:
        luma: `[h, w]` float, 0 to 255.

    Reference:
        Wang, Bovik and Evans, Blind measurement of blocking artifacts in images, ICIP 2000; here in space.
    """
    ratios = []
    for axis in (0, 1):
        steps = np.minimum(np.abs(np.diff(luma, axis=axis)), 20).mean(axis=1 - axis)  # edges are no blocks
        phases = np.array([steps[phase::_BLOCK].mean() for phase in range(_BLOCK)])
        strongest = phases.argmax()
        ratios.append(phases[strongest] / max(float(np.delete(phases, strongest).mean()), 0.1))
    return float(np.mean(ratios))


def motion_of_flow(flow: np.ndarray[Any, Any], gap: float) -> float:
    """Mean length of flow vectors, in per cent of the short side a second.

    Args:
        flow: `[h, w, 2]` in pixels of its own grid.
        gap: Seconds between the two frames.
    """
    length = np.hypot(flow[..., 0], flow[..., 1]).mean()
    return float(100 * length / min(flow.shape[:2]) / gap)


def motion_dis(pictures: np.ndarray[Any, Any], later: np.ndarray[Any, Any], gap: float) -> float:
    """Motion of a segment, by dense inverse search: the mean over its pairs of pictures.

    Args:
        pictures: `[frames, h, w, 3]` uint8.
        later: The same a little later.
        gap: Seconds between the two.

    Reference:
        Kroeger et al., Fast optical flow using dense inverse search, ECCV 2016.
    """
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flows = [search.calc(_gray(a), _gray(b), _NO_GUESS) for a, b in zip(pictures, later, strict=True)]
    return float(np.mean([motion_of_flow(flow, gap) for flow in flows]))


def _gray(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    gray = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    scale = _SHORT_SIDE / min(gray.shape)
    return cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else gray
