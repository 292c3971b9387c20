"""Pictures to judge by eye: labelled columns side by side, and details enlarged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP = 4
LABEL = 22
FRAME = (255, 210, 0)


@dataclass(frozen=True)
class Box:
    """A part of a frame, in pixels of the ground truth.

    Attributes:
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
    """

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``top,left,size`` or ``top,left,height,width``.

        Raises:
            ValueError: If it is neither.
        """
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 3:
            numbers.append(numbers[2])
        if len(numbers) != 4 or min(numbers) < 0 or min(numbers[2:]) < 1:
            raise ValueError(f"a part of a picture is top,left,size or top,left,height,width in pixels; got {text!r}")
        return cls(*numbers)


def strip(columns: Mapping[str, Tensor], boxes: Sequence[Box], *, zoom: int = 2, overview: bool = False) -> Image.Image:
    """Compare pictures: one labelled column each, one row for each part.

    Args:
        columns: Frames `[3, H, W]`, uint8, by label; a smaller one, such as the LR frame, is enlarged to the size of
            the last by repeating its pixels.
        boxes: Parts to show; all are drawn at the width of the first.
        zoom: How many times each pixel is repeated.
        overview: Begin with a row of the whole frames, shrunk, with the parts outlined.

    Returns:
        The picture.

    Raises:
        ValueError: If a part lies outside, or there is none and no overview.
    """
    size = list(columns.values())[-1].shape[-2:]
    for box in boxes:
        if box.top + box.height > size[0] or box.left + box.width > size[1]:
            raise ValueError(f"{box} lies outside of a picture of {size[0]}x{size[1]}")
    if not boxes and not overview:
        raise ValueError("name a part to show, or ask for the overview")
    width = zoom * boxes[0].width if boxes else 320
    rows = []
    if overview:
        rows.append([_overview(frame, size, boxes, width) for frame in columns.values()])
    for box in boxes:
        rows.append([_part(frame, size, box, width) for frame in columns.values()])
    total = (len(columns) * (width + GAP) + GAP, LABEL + sum(row[0].height + GAP for row in rows))
    sheet = Image.new("RGB", total, (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, label in enumerate(columns):
        draw.text((GAP + index * (width + GAP), 2), label, (0, 0, 0), font=font)
    top = LABEL
    for row in rows:
        for index, picture in enumerate(row):
            sheet.paste(picture, (GAP + index * (width + GAP), top))
        top += row[0].height + GAP
    return sheet


def liveliest(frame: Tensor, size: int, count: int = 2) -> list[Box]:
    """The squares with most detail, that do not overlap: where methods differ.

    Args:
        frame: `[3, H, W]`, uint8.
        size: Side of a square; less where the picture is smaller.
        count: How many, at most.

    Returns:
        Squares, the most detailed first.
    """
    grey = frame.float().mean(0)
    height, width = grey.shape
    size = min(size, height, width)
    change = (grey[1:, 1:] - grey[:-1, 1:]).abs() + (grey[1:, 1:] - grey[1:, :-1]).abs()
    boxes: list[tuple[float, Box]] = []
    for top in range(0, height - size + 1, size):
        for left in range(0, width - size + 1, size):
            detail = float(change[top : top + size - 1, left : left + size - 1].mean())
            boxes.append((detail, Box(top, left, size, size)))
    boxes.sort(key=lambda entry: -entry[0])
    return [box for _, box in boxes[:count]]


def side_by_side(columns: Mapping[str, Tensor]) -> Tensor:
    """Clips beside each other, for a video.

    Args:
        columns: `[T, 3, H, W]`, uint8, by label; a smaller one is enlarged to the size of the last by repeating its
            pixels.

    Returns:
        `[T, 3, H + label, columns * W]`, uint8, both sides even.
    """
    last = list(columns.values())[-1]
    height, width = last.shape[-2:]
    head = Image.new("RGB", (width * len(columns), LABEL), (255, 255, 255))
    draw, font = ImageDraw.Draw(head), ImageFont.load_default(14)
    for index, label in enumerate(columns):
        draw.text((index * width + GAP, 2), label, (0, 0, 0), font=font)
    title = torch.from_numpy(np.array(head)).permute(2, 0, 1).expand(len(last), -1, -1, -1)
    body = torch.cat([_enlarged(clip, (height, width)) for clip in columns.values()], 3)
    both = torch.cat((title, body), 2)
    return both[..., : both.shape[-2] // 2 * 2, : both.shape[-1] // 2 * 2]


def _enlarged(frames: Tensor, size: Sequence[int]) -> Tensor:
    """`[..., h, w]` to `[..., H, W]` by repeating pixels."""
    if tuple(frames.shape[-2:]) == tuple(size):
        return frames
    rows = torch.arange(size[0]) * frames.shape[-2] // size[0]
    columns = torch.arange(size[1]) * frames.shape[-1] // size[1]
    return frames[..., rows, :][..., columns]


def _picture(frame: Tensor, size: Sequence[int]) -> Image.Image:
    return Image.fromarray(_enlarged(frame.cpu(), size).permute(1, 2, 0).contiguous().numpy())


def _part(frame: Tensor, size: Sequence[int], box: Box, width: int) -> Image.Image:
    part = _picture(frame, size).crop((box.left, box.top, box.left + box.width, box.top + box.height))
    return part.resize((width, round(width * box.height / box.width)), Image.Resampling.NEAREST)


def _overview(frame: Tensor, size: Sequence[int], boxes: Sequence[Box], width: int) -> Image.Image:
    ratio = width / size[1]
    whole = _picture(frame, size).resize((width, round(ratio * size[0])), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(whole)
    for box in boxes:
        corners = (box.left, box.top, box.left + box.width, box.top + box.height)
        draw.rectangle([ratio * corner for corner in corners], outline=FRAME)
    return whole
