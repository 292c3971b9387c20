"""Names that are no files: network addresses and devices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashvsr.video.info import VideoError, plain_errors

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://.+")
DEVICES = {"v4l2": "video4linux2", "avfoundation": "avfoundation", "dshow": "dshow", "x11grab": "x11grab"}
DEVICES |= {"gdigrab": "gdigrab", "lavfi": "lavfi"}
_FORMATS = {"udp": "mpegts", "tcp": "mpegts", "srt": "mpegts", "rist": "mpegts", "http": "mpegts", "https": "mpegts"}
_FORMATS |= {"rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp", "rtp": "rtp_mpegts"}
_MISSING = 1330794744  # AVERROR_PROTOCOL_NOT_FOUND


def is_address(name: str | Path) -> bool:
    """Whether a name is a network address such as ``udp://127.0.0.1:5000``."""
    return _ADDRESS.fullmatch(str(name)) is not None


def is_device(name: str | Path) -> bool:
    """Whether a name is an input device, such as ``v4l2:/dev/video0`` or FFmpeg's test source ``lavfi:testsrc2``."""
    kind, found, rest = str(name).partition(":")
    return bool(found and rest) and kind in DEVICES and not is_address(name)


def format_of(address: str) -> str:
    """The container for an address, as FFmpeg calls it.

    Raises:
        VideoError: If its protocol has no usual one.
    """
    match = _ADDRESS.fullmatch(address)
    protocol = match[1].lower() if match else ""
    if protocol not in _FORMATS:
        raise VideoError(f"{address}: no container is usual for {protocol}\nname a --format, such as mpegts")
    return _FORMATS[protocol]


@contextmanager
def plain_address_errors(name: str, doing: str) -> Iterator[None]:
    """Turn errors of an address or a device into a `VideoError`; one that FFmpeg was not built for is named.

    Args:
        name: The address.
        doing: What is tried, such as ``"read"``.
    """
    try:
        with plain_errors(f"cannot {doing} {name}", "check the address, and that something answers there"):
            yield
    except VideoError as error:
        if getattr(error.__cause__, "errno", None) != _MISSING:
            raise
        protocol = name.split(":", maxsplit=1)[0]
        raise VideoError(
            f"cannot {doing} {name}: this build of FFmpeg has no {protocol}\nuse udp, tcp, http, rtsp or rtmp"
        ) from error
