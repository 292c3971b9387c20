"""A photograph becomes a clip: synthetic camera motion."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample

_TRIES = 8
_CALMER = 0.6
_MARGIN = 2  # pixels around the part in view, for the kernel


@dataclass(frozen=True)
class CameraMotion:
    """How strongly the camera may move. Every clip draws its own strengths, from nothing up to these.

    Attributes:
        pan: Mean speed of the view over the photograph, in output pixels per frame.
        zoom: Largest ratio of two magnifications within a clip; 1 is none.
        rotation: Largest turn to either side within a clip, in degrees.
        shake: Standard deviation of the hand's jitter, in output pixels.
        still: Probability of a clip that does not move at all.
        shrink: Photographs with more pixels than the crop needs are shrunk by a random factor up to this.
    """

    pan: float = 4.0
    zoom: float = 1.2
    rotation: float = 4.0
    shake: float = 1.0
    still: float = 0.05
    shrink: float = 1.5

    def __post_init__(self) -> None:
        if min(self.pan, self.rotation, self.shake, self.still) < 0 or self.still > 1:
            raise ValueError(f"{self}: expected strengths of at least 0, and `still` in [0, 1]")
        if min(self.zoom, self.shrink) < 1:
            raise ValueError(f"{self}: expected `zoom` and `shrink` of at least 1")


def camera_path(motion: CameraMotion, frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth path of the camera, centred.

    Args:
        motion: Strengths.
        frames: Length of the clip, at least 1.
        rng: Everything random comes from here.

    Returns:
        `[frames, 4]`: x and y of the view's centre in pixels, log of the view's size (0 on average), angle in radians.
    """
    path = np.zeros((frames, 4))
    if frames == 1 or rng.random() < motion.still:
        return path
    time = np.linspace(-1, 1, frames)
    strength = rng.random(4)
    heading = rng.uniform(0, 2 * np.pi)
    bend, ease = rng.uniform(-1, 1, 2)
    travel = motion.pan * strength[0] * (frames - 1) / 2
    along, across = time + 0.4 * ease * (time**2 - 1), bend * 0.4 * (time**2 - 1)
    path[:, 0] = travel * (np.cos(heading) * along - np.sin(heading) * across)
    path[:, 1] = travel * (np.sin(heading) * along + np.cos(heading) * across)
    path[:, 2] = rng.choice([-1, 1]) * strength[1] * np.log(motion.zoom) / 2 * _swing(time, rng)
    path[:, 3] = rng.choice([-1, 1]) * strength[2] * np.radians(motion.rotation) * _swing(time, rng)
    path[:, :2] += motion.shake * strength[3] * _jitter(frames, rng)
    return path


def _swing(time: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """From one side to the other, or there and back; within [-1, 1]."""
    return time if rng.random() < 0.6 else np.sin(time * np.pi / 2 + rng.uniform(0, np.pi))


def _jitter(frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """`[frames, 2]` noise of unit variance, smoothed over about three frames as a hand and its weight do."""
    noise = rng.standard_normal((frames + 8, 2))
    kernel = np.exp(-0.5 * (np.arange(-4, 5) / 1.3) ** 2)
    kernel /= np.sqrt(np.square(kernel).sum())
    return np.stack([np.convolve(noise[:, axis], kernel, "valid") for axis in range(2)], axis=1)


def animate(
    photo: Image.Image, frames: int, crop: tuple[int, int], rng: np.random.Generator, motion: CameraMotion
) -> Tensor:
    """A clip of a camera that moves over a photograph.

    The photograph is shrunk first, with an anti-aliasing filter, so that one step of the view is one pixel of it on
    average over the clip; zoom moves that by at most the square root of ``motion.zoom``. Each frame is then one
    warp, as sharp as a bicubic one. A path that leaves the photograph is made calmer until it stays inside; one with
    no room at all stands still. Nothing is invented beyond the border.

    Args:
        photo: RGB, at least as large as ``crop``.
        frames: Length of the clip.
        crop: Rows and columns of the clip.
        rng: Everything random comes from here.
        motion: Strengths.

    Returns:
        `[frames, 3, *crop]` uint8.

    Raises:
        ValueError: If the photograph is smaller than ``crop``.
    """
    height, width = crop
    room = min(photo.height / height, photo.width / width)
    if room < 1:
        raise ValueError(f"photograph of {photo.width}x{photo.height}: expected at least {width}x{height}")
    factor = rng.uniform(1, min(room, motion.shrink))
    if factor > 1:
        size = (max(width, round(photo.width / factor)), max(height, round(photo.height / factor)))
        photo = photo.resize(size, Image.Resampling.BICUBIC)
    matrices, still = place_views((photo.height, photo.width), frames, crop, rng, motion)
    if still:
        left, top = (int(corner) for corner in matrices[0, :, 2])
        piece = _to_tensor(photo.crop((left, top, left + width, top + height)))
        return piece.expand(frames, -1, -1, -1).contiguous()
    return _warp(photo, matrices, crop)


def place_views(
    size: tuple[int, int], frames: int, crop: tuple[int, int], rng: np.random.Generator, motion: CameraMotion
) -> tuple[NDArray[np.float64], bool]:
    """Where on a photograph the camera looks.

    Args:
        size: Rows and columns of the photograph, at least those of the crop.
        frames: Length of the clip.
        crop: Rows and columns of the clip.
        rng: Everything random comes from here.
        motion: Strengths.

    Returns:
        Maps from pixels of the clip to pixels of the photograph, (x, y), `[frames, 2, 3]`; and whether they are one
        shift by whole pixels for all frames.
    """
    path = camera_path(motion, frames, rng)
    matrices, low, high = _views(path, crop)
    slack = np.array([size[1], size[0]]) - (high - low)
    for _ in range(_TRIES):
        if (slack >= 0).all():
            break
        path = path * _CALMER
        matrices, low, high = _views(path, crop)
        slack = np.array([size[1], size[0]]) - (high - low)
    else:
        matrices, low, high = _views(np.zeros_like(path), crop)
        slack = np.array([size[1], size[0]]) - (high - low)
    place = rng.uniform(0, 1, 2) * slack - low
    if not path.any() or (slack <= 0).all():
        place = np.round(place)  # a view that stands still needs no interpolation
    matrices[:, :, 2] += place
    still = not matrices[:, :, :2].std(axis=0).any() and np.ptp(matrices[:, :, 2], axis=0).max() == 0
    return matrices, bool(still)


def _views(
    path: NDArray[np.float64], crop: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Maps from output to photograph `[frames, 2, 3]`, and the lowest and highest (x, y) that any frame reaches."""
    height, width = crop
    step, angle = np.exp(path[:, 2]), path[:, 3]
    cos, sin = step * np.cos(angle), step * np.sin(angle)
    matrices = np.empty((len(path), 2, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = cos, -sin
    matrices[:, 1, 0], matrices[:, 1, 1] = sin, cos
    centre = np.array([width / 2, height / 2])
    matrices[:, :, 2] = path[:, :2] - matrices[:, :, :2] @ centre
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
    reached = np.einsum("tij,cj->tci", matrices, corners)
    return matrices, reached.min(axis=(0, 1)), reached.max(axis=(0, 1))


def _warp(photo: Image.Image, matrices: NDArray[np.float64], crop: tuple[int, int]) -> Tensor:
    """Samples of a photograph along maps in pixels: `[frames, 3, *crop]` uint8.

    The part in view is enlarged twofold (Lanczos) once, and each frame is a bilinear warp of that: closer to ideal
    interpolation than a bicubic warp of the photograph, in half the time.
    """
    corners = matrices @ np.array([[0, crop[1], 0, crop[1]], [0, 0, crop[0], crop[0]], [1, 1, 1, 1]])
    low = np.maximum(np.floor(corners.min(axis=(0, 2))).astype(int) - _MARGIN, 0)
    high = np.minimum(np.ceil(corners.max(axis=(0, 2))).astype(int) + _MARGIN, photo.size)
    left, top, right, bottom = (int(side) for side in (*low, *high))
    part = photo.resize((2 * (right - left), 2 * (bottom - top)), Image.Resampling.LANCZOS, (left, top, right, bottom))
    source = torch.from_numpy(np.array(part))[None].float().permute(0, 3, 1, 2)
    x, y = torch.arange(crop[1]) + 0.5, (torch.arange(crop[0]) + 0.5)[:, None]
    clip = torch.empty(len(matrices), 3, *crop, dtype=torch.uint8)
    where = torch.empty(1, *crop, 2)
    for number, matrix in enumerate(matrices):
        for axis in range(2):  # grid_sample counts from -1 to 1
            a, b, c = (float(value) for value in matrix[axis] * 2 / (high - low)[axis])
            torch.add(a * x, b * y + (c - 2 * low[axis] / (high - low)[axis] - 1), out=where[0, :, :, axis])
        frame = grid_sample(source, where, mode="bilinear", padding_mode="border", align_corners=False)
        clip[number] = frame[0].add_(0.5)
    return clip


def _to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
