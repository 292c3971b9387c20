"""The built-in clip ``example:``: a landscape filmed by a moving camera, drawn by code: it needs no file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from flashvsr.video.info import Colors, VideoFrame, VideoInfo
from flashvsr.video.trim import WHOLE, Trim

_WIDTH, _HEIGHT, _FRAMES, _RATE = 320, 180, 36, Fraction(24)
_SCENE_WIDTH, _SCENE_HEIGHT = 1792, 1120  # about four scene pixels per pixel of the clip
_OVERSAMPLE = 4


class ExampleSource:
    """The example clip: 36 frames of 320x180 at 24 per second, the same on every run.

    A lake with hills, a striped balloon, grass, a brick wall and a sign with small print, seen by a camera that pans,
    zooms and rolls. Every pixel averages 4x4 samples of a larger drawing, as a camera's would, so fine texture and
    small letters are there to be recovered.
    """

    def __init__(self, trim: Trim = WHOLE) -> None:
        self.warnings: list[str] = []
        self.tracks = None
        self._numbers = trim.numbers(_RATE, _FRAMES, "example:")
        self.last_duration = 1 / _RATE
        self.info = VideoInfo(
            width=_WIDTH,
            height=_HEIGHT,
            frame_rate=_RATE,
            time_base=1 / _RATE,
            frames=len(self._numbers),
            colors=Colors(primaries=1, transfer=1, matrix=0, range=2),
            source="example:",
        )

    def frames(self, skip: int) -> Iterator[VideoFrame]:
        """The frames after the first ``skip``."""
        scene, balloon = _draw_scene(), _draw_balloon()
        first = self._numbers.start
        for number in self._numbers[skip:]:
            moment = number / (_FRAMES - 1)
            pixels = _film(_float_balloon(scene, balloon, moment), moment)
            yield VideoFrame((pixels * 255).round().to(torch.uint8), (number - first) / _RATE)

    def close(self) -> None:
        """Nothing is kept open."""


def _film(scene: Tensor, moment: float) -> Tensor:
    """What the camera sees at a moment in [0, 1]: `[3, 180, 320]`, [0, 1]."""
    ease = moment * moment * (3 - 2 * moment)
    zoom = 0.80 - 0.14 * ease  # half the view's width, over half the scene's
    roll = math.radians(1.2 * math.sin(2.2 * moment))
    centre = (-0.16 + 0.30 * ease, 0.10 + 0.08 * ease)
    aspect = (_SCENE_WIDTH / _SCENE_HEIGHT) / (_WIDTH / _HEIGHT)  # pixels stay square
    slope = _SCENE_HEIGHT / _SCENE_WIDTH
    cos, sin = zoom * math.cos(roll), zoom * math.sin(roll)
    matrix = torch.tensor([[[cos, -sin * slope * aspect, centre[0]], [sin / slope, cos * aspect, centre[1]]]])
    size = [1, 3, _HEIGHT * _OVERSAMPLE, _WIDTH * _OVERSAMPLE]
    grid = functional.affine_grid(matrix, size, align_corners=False)
    view = functional.grid_sample(scene[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return functional.avg_pool2d(view, _OVERSAMPLE)[0].clamp(0, 1)


def _draw_scene() -> Tensor:
    """The whole landscape, `[3, 1120, 1792]` in [0, 1]."""
    rows = torch.linspace(0, 1, _SCENE_HEIGHT)[:, None]
    columns = torch.linspace(0, 1, _SCENE_WIDTH)[None, :]
    scene = _sky(rows, columns)
    for number, (height, reach, color) in enumerate(
        [(0.40, 0.16, (0.52, 0.58, 0.68)), (0.46, 0.12, (0.30, 0.40, 0.42)), (0.51, 0.07, (0.17, 0.28, 0.20))]
    ):
        ridge = height - reach * (_clouds(30 + number, 1, 4, rows=1)[0] - 0.4)  # [W]
        texture = 0.35 + 1.3 * _clouds(40 + number, 30 + 40 * number, 50 + 60 * number)
        scene = _over(scene, _rgb(color) * texture, ((rows - ridge) * _SCENE_HEIGHT).clamp(0, 1))
    scene = _over(scene, _lake(scene, rows), ((rows - 0.56) * _SCENE_HEIGHT).clamp(0, 1))
    shore = 0.70 + 0.03 * _clouds(50, 1, 6, rows=1)[0]
    scene = _over(scene, _grass(rows), ((rows - shore) * _SCENE_HEIGHT).clamp(0, 1))
    return _put_wall(scene)


def _sky(rows: Tensor, columns: Tensor) -> Tensor:
    blend = (rows / 0.55).clamp(0, 1)
    sky = _rgb((0.24, 0.47, 0.80)) * (1 - blend) + _rgb((0.97, 0.83, 0.66)) * blend
    sun = torch.exp(-(((columns - 0.22) * 1.6) ** 2 + (rows - 0.34) ** 2) / 0.006)
    cover = ((_clouds(10, 5, 5) - 0.50) * 3.2).clamp(0, 1) * (1 - blend * 0.6)
    return _over(sky + 0.35 * sun, _rgb((1.0, 0.97, 0.94)).expand_as(sky), cover * 0.85)


def _lake(scene: Tensor, rows: Tensor) -> Tensor:
    """A rippled mirror image of what stands above the waterline."""
    line = int(0.56 * _SCENE_HEIGHT)
    depth = torch.arange(_SCENE_HEIGHT) - line
    mirrored = scene[:, (line - depth).clamp(0, _SCENE_HEIGHT - 1)]
    ripples = _clouds(60, 90, 10) - 0.5
    return mirrored * (0.72 + 0.5 * ripples * (1 + rows)) + 0.03


def _grass(rows: Tensor) -> Tensor:
    blades = _clouds(70, 30, 260) * 0.6 + _clouds(71, 8, 12) * 0.5
    flowers = (_clouds(72, 70, 112) > 0.80).float()
    green = _rgb((0.20, 0.42, 0.12)) * (0.35 + 1.1 * blades) + _rgb((0.20, 0.16, 0.02)) * (rows - 0.7)
    return _over(green, _rgb((0.95, 0.85, 0.35)).expand_as(green), flowers * 0.8)


def _put_wall(scene: Tensor) -> Tensor:
    """A brick wall on the right with a sign on it."""
    top, left, height, width = 430, 1010, 470, 600
    y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
    course = y // 24
    along = x + 32 * (course % 2)
    mortar = ((y % 24 < 3) | (along % 64 < 3)).float()
    shade = torch.rand(height // 24 + 1, width // 64 + 2, generator=_seeded(80))[course, along // 64]
    grain = _clouds(81, 80, 120)[:height, :width]
    brick = _rgb((0.62, 0.27, 0.19)) * (0.65 + 0.35 * shade + 0.3 * (grain - 0.5))
    wall = _over(brick, _rgb((0.74, 0.71, 0.66)) * (0.8 + 0.4 * grain), mortar)
    sign = _sign(480, 300)
    wall[:, 64:364, 60:540] = sign * (0.95 + 0.1 * (grain[64:364, 60:540] - 0.5))
    wall[:, 364:374, 66:546] *= 0.55  # the sign's shadow
    scene = scene.clone()
    scene[:, top : top + height, left : left + width] = wall
    return scene


def _sign(width: int, height: int) -> Tensor:
    """A sign with letters from large to small, `[3, height, width]`."""
    image = Image.new("RGB", (width, height), (244, 240, 228))
    draw = ImageDraw.Draw(image)
    draw.rectangle((6, 6, width - 7, height - 7), outline=(32, 58, 96), width=5)
    lines = [("FlashVSR", 76, 24), ("streaming video", 44, 112), ("super-resolution x4", 30, 168)]
    small = [
        ("Every frame in is a frame out. 0123456789", 19, 212),
        ("abcdefghijklm nopqrstuvwxyz & fine print", 14, 240),
    ]
    for text, size, top in lines + small:
        draw.text((width / 2, top), text, fill=(32, 58, 96), font=ImageFont.load_default(size), anchor="ma")
    for column in range(40):  # lines that come closer and closer
        x = 40 + round(400 * (column / 40) ** 0.6)
        draw.line((x, 266, x, 286), fill=(32, 58, 96), width=2)
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(height, width, 3).permute(2, 0, 1).float() / 255


def _draw_balloon() -> Tensor:
    """A striped balloon with its basket, `[4, 260, 180]`: red, green, blue, cover."""
    y, x = torch.meshgrid(torch.arange(260.0), torch.arange(180.0), indexing="ij")
    across, up = (x - 90) / 80, (y - 95) / 90
    # the lower half narrows towards the basket
    radius = across**2 / (1 - 0.55 * up.clamp(0, 1) ** 2) + up**2
    cover = ((1.06 - radius) * 30).clamp(0, 1)
    stripe = (torch.asin((across / (1 - up**2).clamp(min=0.05).sqrt()).clamp(-1, 1)) * 7).sin() > 0
    color = torch.where(stripe, _rgb((0.85, 0.20, 0.16)), _rgb((0.97, 0.90, 0.72)))
    color = color * (1.05 - 0.35 * (across + 0.4).clamp(0, 1.4) - 0.15 * up)
    basket = ((y > 215) & (y < 248) & ((x - 90).abs() < 20)).float()
    ropes = ((y > 180) & (y <= 215) & (((x - 90).abs() - 16).abs() < 1.5)).float()
    weave = 0.7 + 0.3 * ((x // 4 + y // 4) % 2)
    color = _over(color, _rgb((0.48, 0.32, 0.16)) * weave, torch.maximum(basket, ropes))
    return torch.cat([color.clamp(0, 1), torch.maximum(cover, torch.maximum(basket, ropes))[None]])


def _float_balloon(scene: Tensor, balloon: Tensor, moment: float) -> Tensor:
    top, left = round(250 + 10 * moment), round(520 + 190 * moment)
    area = (slice(None), slice(top, top + 260), slice(left, left + 180))
    scene = scene.clone()
    scene[area] = _over(scene[area], balloon[:3], balloon[3])
    return scene


def _clouds(seed: int, down: int, across: int, *, rows: int = _SCENE_HEIGHT) -> Tensor:
    """Smooth fractal noise `[rows, 1792]` in [0, 1], with about ``down`` x ``across`` of its largest features."""
    total, weight = torch.zeros(rows, _SCENE_WIDTH), 0.0
    for octave in range(5):
        cells = (min(down << octave, rows), min(across << octave, _SCENE_WIDTH))
        noise = torch.rand(1, 1, *(cell + 1 for cell in cells), generator=_seeded(seed * 8 + octave))
        smooth = functional.interpolate(noise, (rows, _SCENE_WIDTH), mode="bicubic", align_corners=True)[0, 0]
        total += smooth * 0.5**octave
        weight += 0.5**octave
    return (total / weight).clamp(0, 1)


def _over(below: Tensor, above: Tensor, cover: Tensor) -> Tensor:
    return below * (1 - cover) + above * cover


def _rgb(color: tuple[float, float, float]) -> Tensor:
    return torch.tensor(color)[:, None, None]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
