"""Frames of PyAV to RGB tensors and back, with the right matrix, range, depth and orientation."""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from typing import Any

import av
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from flashvsr.video.info import Colors, VideoError, VideoInfo
from flashvsr.video.picture.alpha import enlarge_alpha, has_alpha, read_alpha
from flashvsr.video.picture.crop import NO_CROP, Crop

# bicubic (4), full chroma interpolation in (0x4000) and out (0x2000), accurate rounding, the same on every CPU
_SCALE_FLAGS = 4 | 0x2000 | 0x4000 | 0x40000 | 0x80000
_UNSPECIFIED, _LIMITED, _FULL = 0, 1, 2
_SWAPPED = re.compile(r"(rgb|bgr)(444|555|565)be")
_FOUR_BITS = re.compile(r"(rgb|bgr)444(be|le)")
_STATE_THEIR_RANGE = ("h264", "hevc", "vvc", "av1", "vp9")
_ALWAYS_FULL = ("mjpeg", "ljpeg", "jpegls")
_LUMA_IS_LIMITED = ("h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg1video", "mpeg2video", "mpeg4", "theora")
# H.273 matrix -> swscale's number for it
_SWSCALE_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
# swscale computes deep RGB on a scale where limited-range white is 255 * 256, not 65535
_DEEP_WHITE = 65280
# counter-clockwise quarter turns -> (a, b, c, d) of the display matrix
_ROTATIONS = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))


def resolve_colors(colors: Colors, width: int, height: int) -> Colors:
    """Fill in what a file leaves unspecified, the way players do.

    The same answer is used to read the source and to tag (and write) the result, so an untagged video keeps its
    colours although the result has another size.

    Args:
        colors: As tagged; RGB (matrix 0) becomes what RGB is encoded as: bt709, limited.
        width: Of the source; with ``height`` it tells SD (bt601) from HD (bt709: 1280 wide or 720 high and up).
        height: Of the source.

    Returns:
        Colours with nothing unspecified.
    """
    if colors.matrix == 0:
        colors = replace(colors, matrix=1, range=_LIMITED)
    matrix = colors.matrix
    if matrix == 2:
        if colors.primaries == 9:
            matrix = 9
        elif width >= 1280 or height >= 720:
            matrix = 1
        else:
            matrix = 5 if height == 576 else 6
    primaries = {1: 1, 5: 5, 9: 9}.get(matrix, 6) if colors.primaries == 2 else colors.primaries
    transfer = {1: 1, 9: 14}.get(matrix, 6) if colors.transfer == 2 else colors.transfer
    return Colors(primaries, transfer, matrix, colors.range or _LIMITED)


def output_colors(info: VideoInfo, codec: str) -> Colors:
    """Colours to encode a result in: those of the source, in a range that every player takes the codec to have.

    Args:
        info: Of the source.
        codec: Canonical name of the codec, such as ``"prores"``.
    """
    colors = resolve_colors(info.colors, info.width, info.height)
    if codec in _ALWAYS_FULL:
        return replace(colors, range=_FULL)
    return colors if codec in _STATE_THEIR_RANGE else replace(colors, range=_LIMITED)


def frame_colors(frame: av.VideoFrame, codec: str | None = None) -> Colors:
    """Colour tags of a decoded frame; RGB and palette formats have matrix 0, "yuvj" formats full range.

    Args:
        frame: From a decoder.
        codec: Canonical name of the codec it was stored in; None for one of video. Gray that is not tagged has limited
            range in the codecs of video, as their luma has, and full range in those that store pixels as they are.
    """
    name = frame.format.name
    if is_gray(frame.format) and int(frame.color_range) == _UNSPECIFIED and codec not in (None, *_LUMA_IS_LIMITED):
        return Colors(int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace), _FULL)
    if frame.format.is_rgb or frame.format.has_palette:
        return Colors(int(frame.color_primaries), int(frame.color_trc), 0, _FULL)
    full = name.startswith("yuvj")
    matrix = 2 if int(frame.colorspace) in (0, 3) else int(frame.colorspace)  # 0 would be RGB in a YUV format
    return Colors(int(frame.color_primaries), int(frame.color_trc), matrix, _FULL if full else int(frame.color_range))


def bit_depth(frame: av.VideoFrame) -> int:
    """8, or 10 for every deeper pixel format."""
    if frame.format.has_palette:
        return 8
    return 10 if max(component.bits for component in frame.format.components) > 8 else 8


def side_data(frame: Any, name: str) -> bytes | None:
    """Raw bytes of a frame's side data of this type (as PyAV names it), None when it has none.

    PyAV cannot list the side data of a frame that holds a kind it does not know (EXIF of a photograph): None then.
    """
    try:
        found = frame.side_data.get(name)
    except ValueError:
        return None
    return None if found is None else bytes(found)


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """The part of a frame's display matrix that turns and mirrors: signs of (a, b, c, d), nearest quarter turn.

    A stored pixel (x, y) is shown at ``(a*x + c*y, b*x + d*y)``; (1, 0, 0, 1) when the frame has no matrix.

    Reference:
        ISO/IEC 14496-12, section 6.2.2 (matrices).
    """
    packed = side_data(frame, "DISPLAYMATRIX")
    if packed is None:
        return _ROTATIONS[round(frame.rotation / 90) % 4]
    a, b, _, c, d = struct.unpack("=5i", packed[:20])
    if abs(a) >= abs(b):
        return (1 if a >= 0 else -1, 0, 0, 1 if d >= 0 else -1)
    return (0, 1 if b >= 0 else -1, 1 if c >= 0 else -1, 0)


def rotation_degrees(matrix: tuple[int, int, int, int]) -> int:
    """Counter-clockwise rotation that `display_matrix` asks for: 0, 90, 180 or 270 (mirroring not counted)."""
    return 90 * [turn[:2] for turn in _ROTATIONS].index(matrix[:2])


def upright(pixels: Tensor, matrix: tuple[int, int, int, int]) -> Tensor:
    """Turn and mirror `[..., h, w]` as `display_matrix` says; quarter turns swap h and w."""
    a, b, c, d = matrix
    if a == 0:
        pixels, a, d = pixels.transpose(-1, -2), c, b  # rows now run along the stored x
    flips = [dim for dim, sign in ((-2, d), (-1, a)) if sign < 0]
    return pixels.flip(flips) if flips else pixels


class ToRGB:
    """Decoded frames to upright RGB tensors. Keeps the converter between frames of one format.

    Chroma is interpolated (bicubic) to every pixel; frames are taken as progressive.

    Args:
        colors: Resolved colours of the source (`resolve_colors`); each frame's own RGB, gray or YUV layout is known.
        deep: float32 in [0, 1] instead of uint8.
        crop: Edges to cut off, of the stored picture.
    """

    def __init__(self, colors: Colors, *, deep: bool, crop: Crop = NO_CROP) -> None:
        self._colors = colors
        self._deep = deep
        self._crop = crop
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> Tensor:
        """Convert a frame to `[3, h, w]`, contiguous.

        Raises:
            VideoError: If the colour matrix is one that cannot be converted (ICtCp, YCgCo, constant luminance).
        """
        if _SWAPPED.fullmatch(frame.format.name):  # swscale takes their bytes for those of the other order
            frame = self._reformatter.reformat(frame, format=frame.format.name.replace("be", "le"))
        rgb = frame.format.is_rgb or frame.format.has_palette
        full = rgb or frame.format.name.startswith("yuvj") or self._colors.range == _FULL
        matrix = 1 if rgb else _swscale_matrix(self._colors.matrix)
        converted = self._reformatter.reformat(
            frame,
            format="rgb48le" if self._deep else "rgb24",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=_FULL if full else _LIMITED,
            dst_color_range=_FULL,
            interpolation=_SCALE_FLAGS,
        )
        pixels = self._crop(torch.from_numpy(converted.to_ndarray()).permute(2, 0, 1))  # [3, h, w]
        if _FOUR_BITS.fullmatch(frame.format.name):  # swscale leaves the lower half of the byte empty: white is 240
            pixels = pixels + (pixels >> 4)
        if not full and is_gray(frame.format):
            pixels = _expand_gray(pixels)
        if self._deep:
            pixels = (pixels.to(torch.float32) / _deep_white(frame.format, full=full, rgb=rgb)).clamp_(0, 1)
        return upright(pixels, display_matrix(frame)).contiguous()

    def alpha(self, frame: av.VideoFrame) -> Tensor:
        """Opacity of a frame, `[h, w]` float32 in [0, 1], as upright as its colours."""
        return upright(self._crop(read_alpha(frame)[None]), display_matrix(frame))[0].contiguous()


class FromRGB:
    """RGB tensors to frames ready for an encoder. Keeps the converter between frames.

    Args:
        pixel_format: Of the encoder, such as ``"yuv420p"`` or ``"yuv420p10le"``.
        colors: Resolved colours to convert to and to tag.
    """

    def __init__(self, pixel_format: str, colors: Colors) -> None:
        self._format = pixel_format
        self._colors = colors
        self._reformatter = VideoReformatter()
        layout = av.VideoFormat(pixel_format, 16, 16)
        self._rgb = layout.is_rgb
        self._alpha = has_alpha(layout)
        self._deep = max(component.bits for component in layout.components) > 8

    def __call__(self, pixels: Tensor, alpha: Tensor | None = None) -> av.VideoFrame:
        """Convert a picture.

        Args:
            pixels: `[3, H, W]`, uint8 or float in [0, 1] (clamped), on any device.
            alpha: `[h, w]` in [0, 1], of any size, where the pixel format has an alpha channel; None: opaque.
        """
        white = (65535 if self._rgb else _DEEP_WHITE) if self._deep else 255
        channels = _quantize(pixels, white)
        layout = ("rgb48le", "rgba64le") if self._deep else ("rgb24", "rgba")
        if self._alpha:
            opacity = torch.ones(1, 1) if alpha is None else alpha.cpu()
            opacity = enlarge_alpha(opacity, *pixels.shape[1:])
            channels = torch.cat((channels.cpu(), _quantize(opacity[None], 65535 if self._deep else 255)))
        array = channels.permute(1, 2, 0).contiguous().cpu().numpy()  # [H, W, 3 or 4]
        frame = av.VideoFrame.from_ndarray(array, format=layout[self._alpha])
        matrix = 1 if self._rgb else _swscale_matrix(self._colors.matrix)
        converted = self._reformatter.reformat(
            frame,
            format=self._format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=_FULL,
            dst_color_range=_FULL if self._rgb else self._colors.range,
            interpolation=_SCALE_FLAGS,
        )
        tag(converted, replace(self._colors, matrix=0, range=_FULL) if self._rgb else self._colors)
        return converted


def tag(target: Any, colors: Colors) -> None:
    """Set the colour tags of a frame or of a codec context."""
    target.color_primaries = colors.primaries
    target.color_trc = colors.transfer
    target.colorspace = colors.matrix
    target.color_range = colors.range


def _quantize(pixels: Tensor, white: int) -> Tensor:
    """`[3, H, W]` to whole numbers 0..white, uint8 or (deep) uint16."""
    if white == 255:
        return pixels if pixels.dtype == torch.uint8 else (pixels.float() * 255).round_().clamp_(0, 255).to(torch.uint8)
    scale = white / 255 if pixels.dtype == torch.uint8 else white
    return (pixels.float() * scale).round_().clamp_(0, white).to(torch.int32).to(torch.uint16)


def _deep_white(layout: av.VideoFormat, *, full: bool, rgb: bool) -> int:
    """What white becomes in swscale's 16-bit RGB."""
    bits = layout.components[0].bits
    if rgb:
        return 65535
    return ((1 << bits) - 1) << (16 - bits) if full else _DEEP_WHITE


def is_gray(layout: av.VideoFormat) -> bool:
    """Whether a pixel format holds luma only, with or without alpha."""
    return len(layout.components) < 3 and not layout.is_rgb and not layout.has_palette


def _expand_gray(pixels: Tensor) -> Tensor:
    """Stretch limited-range gray to black and white: swscale takes every gray for full range."""
    if pixels.dtype == torch.uint8:
        return ((pixels.float() - 16) * (255 / 219)).round_().clamp_(0, 255).to(torch.uint8)
    return (pixels.float() - 16 * 256) * (_DEEP_WHITE / (219 * 256))


def _swscale_matrix(matrix: int) -> int:
    if matrix not in _SWSCALE_MATRIX:
        raise VideoError(
            f"colour matrix {matrix} (ITU-T H.273) is not supported: expected bt601, bt709, bt2020 or RGB\n"
            "convert the video to one of them first"
        )
    return _SWSCALE_MATRIX[matrix]
