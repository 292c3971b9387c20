"""Stage ``motion``: how far things move, by optical flow without weights."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

_NO_GUESS: Any = None  # the search starts from no motion
_SHORT_SIDE = 256  # pixels: what the flow is computed on


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
