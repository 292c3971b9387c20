"""Encoders: which one suits a container and a source, its pixel format and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import av

from flashvsr.video.info import VideoError, VideoInfo
from flashvsr.video.picture.alpha import DECODERS

_WELL_KNOWN = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1")
_H264, _AV1_OR_VP9 = ("libx264", "libx264"), ("libsvtav1", "libvpx-vp9")
# encoders of "auto" for HDR and deep sources and for the rest, by container; _USUAL suits those that are not named
_USUAL = ("libx265", "libx264")
_AUTO = (
    {"webm": _AV1_OR_VP9, "ivf": _AV1_OR_VP9}
    | dict.fromkeys(("avi", "asf", "f4v", "3gp", "3g2", "mxf", "h264"), _H264)
    | dict.fromkeys(("ogg", "ogv"), ("libvpx", "libvpx"))
    | dict.fromkeys(("avif", "obu"), ("libsvtav1", "libsvtav1"))
    | {"yuv4mpegpipe": ("rawvideo", "rawvideo"), "hevc": ("libx265", "libx265")}
    | {name: (name, name) for name in ("apng", "mjpeg")}
)
# the first that the encoder takes; odd sizes cannot have their colour halved
_PIXEL_FORMATS = {
    (8, "even"): ("yuv420p", "yuvj420p", "nv12", "yuv422p", "yuv444p", "gbrp", "rgb24"),
    (8, "odd"): ("yuv444p", "gbrp", "rgb24", "yuvj444p"),
    (10, "even"): ("yuv420p10le", "p010le", "yuv422p10le", "yuv444p10le", "gbrp10le", "rgb48be", "rgb48le"),
    (10, "odd"): ("yuv444p10le", "gbrp10le", "rgb48be", "rgb48le"),
}
# with an alpha channel, the first that the encoder takes
_ALPHA_FORMATS = {
    8: ("rgba", "bgra", "argb", "yuva420p", "yuva444p", "gbrap"),
    10: ("yuva444p10le", "gbrap10le", "rgba64be", "rgba64le"),
}
_ALPHA_ONLY = {"libvpx": ("yuva420p",), "libvpx-vp9": ("yuva420p",), "apng": ("rgba",)}  # that decoders read
_AUTO_ALPHA = {"mov": "prores_ks", "webm": "libvpx-vp9", "matroska": "libvpx-vp9", "nut": "ffv1"}
_WITHOUT_ALPHA = ("libx265", "libwebp", "libwebp_anim")  # x265 writes what few decoders read


def _holds_alpha(format: str, codec: str) -> bool:
    """Whether transparency that an encoder of this name writes can be read from this container."""
    if codec in DECODERS.values():
        return format in ("matroska", "webm")
    return codec not in _WITHOUT_ALPHA and format != "yuv4mpegpipe"


def pick_codec(codec: str, format: str, info: VideoInfo) -> str:
    """Name of the encoder: the one asked for, or what suits the container and the source.

    ``"auto"`` is 10-bit HEVC (libx265) for HDR and deep sources and H.264 (libx264) for the rest, where the container
    takes both; VP9 or AV1 (libsvtav1) for WebM, VP8 for Ogg, uncompressed for Y4M, and what else a container is for.
    For a transparent source it is ProRes 4444 in MOV, VP9 in Matroska and WebM, FFV1 in NUT.

    Raises:
        VideoError: No such encoder in this build of FFmpeg.
    """
    if codec == "auto" and info.has_alpha and format in _AUTO_ALPHA:
        return _AUTO_ALPHA[format]
    if codec == "auto":
        deep, plain = _AUTO.get(format, _USUAL)
        return deep if info.is_hdr or info.bit_depth > 8 else plain
    try:
        known = av.Codec(codec, "w")
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"unknown codec {codec!r}\nexpected auto or an encoder such as {_available()}") from error
    if known.type != "video":
        raise VideoError(f"codec {codec!r} encodes {known.type}, not video\nexpected auto or one of {_available()}")
    return known.name


def pick_pixels(codec: str, format: str, size: tuple[int, int], info: VideoInfo) -> tuple[str, list[str]]:
    """The pixel format for an encoder: as deep and as transparent as the source, with full colour for odd sizes.

    Args:
        codec: From `pick_codec`.
        format: From `pick_format`.
        size: Width and height.
        info: Of the source.

    Returns:
        Its name, and a line about each thing that is lost.

    Raises:
        VideoError: The encoder takes none that would do.
    """
    warnings: list[str] = []
    depth = 10 if info.bit_depth > 8 or info.is_hdr else 8
    parity = "odd" if size[0] % 2 or size[1] % 2 else "even"
    offered = [layout.name for layout in av.Codec(codec, "w").video_formats or ()]
    if info.has_alpha and (name := _pick_alpha(codec, format, depth, parity, offered, warnings)):
        return name, warnings
    if not offered:  # raw video takes anything
        return _PIXEL_FORMATS[depth, parity][0], warnings
    for name in _PIXEL_FORMATS[depth, parity] + _PIXEL_FORMATS[18 - depth, parity]:
        if name in offered:
            if parity == "odd" and name.startswith("yuv"):
                warnings.append(f"{size[0]}x{size[1]} is odd: written as {name}, which not every player shows")
            if depth == 10 and name in _PIXEL_FORMATS[8, parity]:
                warnings.append(f"{codec} has no 10-bit format: written with 8 bits")
            return name, warnings
    raise VideoError(
        f"{codec} cannot encode {size[0]}x{size[1]}: it takes {', '.join(offered[:6])}\nuse another --codec"
    )


def encoder_options(codec: str, crf: float, info: VideoInfo, *, live: bool = False) -> dict[str, str]:
    """Encoder settings; those an encoder does not know are ignored by FFmpeg."""
    options = {"crf": f"{crf:g}"}
    if codec in ("libx264", "libx265"):
        options["preset"] = "medium"
    if codec == "libx264":
        options["x264-params"] = f"threads=auto{x264_assembly()}"
    if codec == "libx265":
        settings = ["log-level=none", "open-gop=0"]
        if info.is_hdr and info.colors.transfer == 16:
            settings += ["hdr10=1", "repeat-headers=0"]
            settings += [f"master-display={info.mastering_display}"] if info.mastering_display else []
            settings += [f"max-cll={info.content_light}"] if info.content_light else []
        options["x265-params"] = ":".join(settings)
    if live:  # no frame waits for later ones, and players may join every two seconds
        options |= {"g": str(max(1, round(2 * (info.frame_rate or 25))))}
        options |= {"libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}}.get(codec, {})
    if live and codec in ("libx264", "libx265"):
        options |= {"preset": "veryfast", "tune": "zerolatency"}
    return options


@cache
def x264_assembly() -> str:
    """What keeps x264 from its AVX-512 code, whose lookahead gives other bytes from run to run; AVX2's does not."""
    cpu = Path("/proc/cpuinfo")
    return ":asm=AVX2" if cpu.is_file() and "avx512" in cpu.read_text(encoding="utf-8") else ""


def _pick_alpha(
    codec: str, format: str, depth: int, parity: str, offered: Sequence[str], warnings: list[str]
) -> str | None:
    """A pixel format with an alpha channel; None, with a warning, when there is none."""
    for name in _ALPHA_ONLY.get(codec, (*_ALPHA_FORMATS[depth], *_ALPHA_FORMATS[18 - depth])):
        halves = name == "yuva420p" and parity == "odd" and codec not in _ALPHA_ONLY
        if _holds_alpha(format, codec) and name in (offered or _ALPHA_FORMATS[depth]) and not halves:
            if depth == 10 and name in _ALPHA_FORMATS[8]:
                warnings.append(f"{codec} has no 10-bit format with transparency: written with 8 bits")
            return name
    warnings.append(
        f"{format} with {codec} holds no transparency: the result has none; .webm, .mov and PNG files keep it"
    )
    return None


def _available() -> str:
    return ", ".join(name for name in _WELL_KNOWN if name in av.codecs_available)
