from __future__ import annotations

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from flashvsr.video.info import Colors, VideoError
from flashvsr.video.picture.pixels import (
    FromRGB,
    ToRGB,
    bit_depth,
    frame_colors,
    resolve_colors,
    rotation_degrees,
    upright,
)

WEIGHTS = {5: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593)}  # H.273 matrix -> Kr, Kb
MATRICES = pytest.mark.parametrize("matrix", [1, 5, 9], ids=["bt709", "bt601", "bt2020"])
RANGES = pytest.mark.parametrize("limits", [1, 2], ids=["limited", "full"])


def yuv_of(rgb: np.ndarray, matrix: int, limits: int, bits: int) -> np.ndarray:
    """Reference of BT.601/709/2020: RGB in [0, 1] `[..., 3]` to unrounded code values."""
    kr, kb = WEIGHTS[matrix]
    red, green, blue = np.moveaxis(rgb, -1, 0)
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    step, top = 2 ** (bits - 8), 2**bits - 1
    if limits == 2:
        return np.stack([luma * top, *(c * top + 128 * step for c in chroma)], -1)
    return np.stack([luma * 219 * step + 16 * step, *(c * 224 * step + 128 * step for c in chroma)], -1)


def rgb_of(yuv: np.ndarray, matrix: int, limits: int, bits: int) -> np.ndarray:
    """Reference: code values to RGB in [0, 1]."""
    kr, kb = WEIGHTS[matrix]
    step, top = 2 ** (bits - 8), 2**bits - 1
    luma_span, chroma_span, black = (top, top, 0) if limits == 2 else (219 * step, 224 * step, 16 * step)
    luma = (yuv[..., 0] - black) / luma_span
    blue = luma + 2 * (1 - kb) * (yuv[..., 1] - 128 * step) / chroma_span
    red = luma + 2 * (1 - kr) * (yuv[..., 2] - 128 * step) / chroma_span
    return np.stack([red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue], -1).clip(0, 1)


def planes(frame: av.VideoFrame, dtype: type) -> list[np.ndarray]:
    return [np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]


def solid(layout: str, values: np.ndarray) -> av.VideoFrame:
    frame = av.VideoFrame(64, 48, layout)
    for plane, value in zip(frame.planes, values, strict=True):
        np.frombuffer(plane, np.uint16 if "10" in layout else np.uint8)[:] = value
    return frame


@MATRICES
@RANGES
@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv444p10le"])
def test_solid_colours_read_as_the_standard_says(layout, matrix, limits):
    bits = 10 if "10" in layout else 8
    colors = np.random.default_rng(0).random((12, 3))
    for color in [*colors, np.zeros(3), np.ones(3)]:
        codes = np.round(yuv_of(color, matrix, limits, bits))
        expected = rgb_of(codes, matrix, limits, bits)
        pixels = ToRGB(Colors(1, 1, matrix, limits), deep=bits > 8)(solid(layout, codes))
        got = pixels[:, 20, 20].double() / (255 if bits == 8 else 1)
        assert np.abs(got.numpy() - expected).max() * 255 < (1.01 if bits == 8 else 0.5)


@MATRICES
@RANGES
@pytest.mark.parametrize("layout", ["yuv420p", "yuv444p", "yuv420p10le", "yuv444p10le"])
def test_solid_colours_are_written_as_the_standard_says(layout, matrix, limits):
    bits = 10 if "10" in layout else 8
    dtype = np.uint16 if bits > 8 else np.uint8
    convert = FromRGB(layout, Colors(1, 1, matrix, limits))
    for color in np.random.default_rng(1).random((12, 3)):
        color = np.round(color * 255) / 255
        frame = convert(torch.tensor(color)[:, None, None].expand(3, 48, 64))
        got = np.array([plane[10, 10] for plane in planes(frame, dtype)], float)
        assert np.abs(got - yuv_of(color, matrix, limits, bits)).max() <= 1.6
        assert (int(frame.colorspace), int(frame.color_range)) == (matrix, limits)


@MATRICES
@RANGES
@pytest.mark.parametrize("layout", ["yuv444p", "yuv444p10le"])
def test_a_gradient_survives_a_round_trip(layout, matrix, limits):
    colors, deep = Colors(1, 1, matrix, limits), "10" in layout
    ramp = torch.linspace(0, 1, 256).expand(3, 48, 256) * torch.tensor([1.0, 0.7, 0.4])[:, None, None]
    back = ToRGB(colors, deep=deep)(FromRGB(layout, colors)(ramp))
    error = back / (1 if deep else 255) - ramp
    assert error.abs().max() * 255 < (0.8 if deep else 2.6)  # of the coded value's own rounding


def test_ten_bits_are_kept_not_rounded_to_eight():
    colors = Colors(9, 16, 9, 1)
    ramp = (torch.arange(64, 940) / 1023.0).expand(3, 4, 876)
    back = ToRGB(colors, deep=True)(FromRGB("yuv444p10le", colors)(ramp))
    assert back.dtype == torch.float32
    assert len(back[1, 0].unique()) > 700  # eight bits would leave about 220


def test_untagged_is_bt601_below_720_rows_and_bt709_from_there():
    assert resolve_colors(Colors(), 640, 360).matrix == 6
    assert resolve_colors(Colors(), 720, 576).matrix == 5
    assert resolve_colors(Colors(), 1280, 534).matrix == 1
    assert resolve_colors(Colors(), 960, 720) == Colors(1, 1, 1, 1)
    assert resolve_colors(Colors(primaries=9), 640, 360).matrix == 9


def test_tags_are_not_overruled():
    tagged = Colors(9, 18, 9, 2)
    assert resolve_colors(tagged, 64, 48) == tagged


def test_rgb_is_written_as_limited_bt709():
    assert resolve_colors(Colors(matrix=0, range=2), 64, 48) == Colors(1, 1, 1, 1)


@pytest.mark.parametrize("layout", ["gray", "rgb24", "bgra", "gbrp", "nv12", "ya8", "yuvj420p", "yuva420p"])
def test_eight_bit_layouts_read_alike(layout):
    gray = np.full((48, 64, 3), 77, np.uint8)
    frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
    frame = frame.reformat(format=layout, src_colorspace=5, dst_colorspace=1, src_color_range=2, dst_color_range=2)
    pixels = ToRGB(Colors(1, 1, 1, 2), deep=False)(frame)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 48, 64)
    assert (pixels.int() - 77).abs().max() <= 2  # the frame itself was made with rounded chroma


@pytest.mark.parametrize("layout", ["gbrp10le", "gbrp12le", "rgb48be", "rgba64le", "p010le", "yuv422p12le", "gray10le"])
def test_deep_layouts_read_as_floats_with_a_true_white(layout):
    white = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 65535, np.uint16), format="rgb48le")
    frame = white.reformat(format=layout, src_colorspace=5, dst_colorspace=1, src_color_range=2, dst_color_range=2)
    assert bit_depth(frame) == 10
    pixels = ToRGB(Colors(1, 1, 1, 2), deep=True)(frame)
    assert pixels.dtype == torch.float32
    assert pixels.max() <= 1
    assert (pixels - 1).abs().max() < 0.004  # full-range chroma of swscale is one code value off


def test_palette_images_are_rgb():
    frame = av.VideoFrame(8, 8, "pal8")
    assert frame_colors(frame).matrix == 0
    assert bit_depth(frame) == 8


def test_a_matrix_that_cannot_be_converted_is_refused():
    with pytest.raises(VideoError, match="colour matrix 14"):
        ToRGB(Colors(9, 16, 14, 1), deep=False)(av.VideoFrame(16, 16, "yuv420p"))


def test_floats_are_clamped_and_uint8_goes_through_unchanged():
    convert = FromRGB("gbrp", Colors(1, 1, 1, 1))
    assert convert(torch.tensor([-0.5, 0.5, 1.5])[:, None, None].expand(3, 4, 4)).to_ndarray(format="rgb24")[
        0, 0
    ].tolist() == [0, 128, 255]
    pixels = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
    assert torch.equal(torch.from_numpy(convert(pixels).to_ndarray(format="rgb24")).permute(2, 0, 1), pixels)


@pytest.mark.parametrize(
    ("matrix", "expected", "degrees"),
    [
        ((1, 0, 0, 1), [[1, 2, 3], [4, 5, 6]], 0),
        ((0, 1, -1, 0), [[4, 1], [5, 2], [6, 3]], 270),
        ((-1, 0, 0, -1), [[6, 5, 4], [3, 2, 1]], 180),
        ((0, -1, 1, 0), [[3, 6], [2, 5], [1, 4]], 90),
        ((-1, 0, 0, 1), [[3, 2, 1], [6, 5, 4]], 180),
    ],
)
def test_pixels_are_stood_upright(matrix, expected, degrees):
    stored = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert upright(stored, matrix).tolist() == expected
    if matrix[0] == matrix[3]:  # mirroring is not a rotation
        assert rotation_degrees(matrix) == degrees


def test_the_matrix_convention_is_that_of_iso_14496_12():
    # a stored pixel (x, y) is shown at (a*x + c*y, b*x + d*y): -90 degrees is a=0, b=1, c=-1, d=0
    assert struct.calcsize("=9i") == 36
    width, height = 3, 2
    stored = torch.arange(6).view(height, width)
    a, b, c, d = 0, 1, -1, 0
    shown = {}
    for y in range(height):
        for x in range(width):
            shown[(a * x + c * y, b * x + d * y)] = int(stored[y, x])
    left, top = min(x for x, _ in shown), min(y for _, y in shown)
    table = upright(stored, (a, b, c, d))
    assert all(table[y - top, x - left] == value for (x, y), value in shown.items())
    assert Fraction(table.shape[0], table.shape[1]) == Fraction(width, height)


@pytest.mark.parametrize("layout", ["gray", "gray10le"])
def test_limited_gray_reaches_black_and_white(layout):
    bits = 10 if "10" in layout else 8
    for code, value in ((16, 0.0), (235, 1.0)):
        frame = solid(layout, [code << (bits - 8)])
        pixels = ToRGB(Colors(1, 1, 1, 1), deep=bits > 8)(frame)
        assert abs(float(pixels[0, 0, 0]) / (255 if bits == 8 else 1) - value) < 0.005
