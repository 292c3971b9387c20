"""The header of Matroska, for the fields that PyAV neither reads nor writes."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av

FORMATS = ("matroska", "webm")
SEGMENT, TRACKS, TRACK, VIDEO = b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0"
_TYPE, _NAME, _CRC, _VOID = b"\x83", b"\x53\x6e", b"\xbf", b"\xec"
_ADDITION, _EXTRA = b"\x41\xe4", b"\x41\xed"  # BlockAdditionMapping, BlockAddIDExtraData
_DOLBY_COLORS = (5, 10, 20)  # profiles of Dolby Vision that may have a base layer in IPTPQc2
_SHAPE = (b"\x54\xb0", b"\x54\xba", b"\x54\xb2")  # DisplayWidth, DisplayHeight, DisplayUnit
_HEADER = 1 << 22  # bytes that are searched for the description of the tracks
_ROOM = " " * 48  # by so much longer is the name of a track written, to be used for the shape of its pixels


class Element(NamedTuple):
    """A piece of EBML: its identifier, its content, where that begins in what was read, and all of its bytes."""

    name: bytes
    content: bytes
    at: int
    whole: bytes


def elements(data: bytes) -> Iterator[Element]:
    """The elements in some bytes, in order; the last may be cut off.

    Reference:
        RFC 8794, Extensible Binary Meta Language, sections 4 to 6.
    """
    begin = 0
    while begin + 1 < len(data):
        middle = begin + 9 - data[begin].bit_length()
        if middle >= len(data):
            return
        length = 9 - data[middle].bit_length()
        at = middle + length
        size, unknown = int.from_bytes(data[middle:at]) - (1 << 7 * length), (1 << 7 * length) - 1
        end = len(data) if size == unknown else min(len(data), at + size)
        yield Element(data[begin:middle], data[at:end], at, data[begin:end])
        begin = end


def inside(data: bytes, *names: bytes) -> bytes:
    """Content of the first element of the first name, in it of the first of the second, and so on; empty if none."""
    for name in names:
        data = next((element.content for element in elements(data) if element.name == name), b"")
    return data


def described(stream: Any) -> bytes:
    """What FFmpeg's demuxer knows of a stream, as the content of a track of Matroska; empty for what that cannot hold.

    PyAV does not show the container's cropping, Dolby Vision and the like: a header is written in memory and read.

    Args:
        stream: Of an input.
    """
    header = io.BytesIO()
    try:
        with av.open(header, "w", format="matroska") as trial:
            trial.add_stream_from_template(stream, opaque=True)
            trial.start_encoding()
            written = header.getvalue()
    except (av.FFmpegError, ValueError):  # a codec that Matroska does not take; raw streams have no container either
        return b""
    return inside(written, SEGMENT, TRACKS, TRACK)


def needs_dolby_vision(stream: Any) -> bool:
    """Whether the colours of a stream are right on players of Dolby Vision alone: no other display can take them.

    Args:
        stream: Of an input.

    Reference:
        Dolby Vision Streams Within the ISO Base Media File Format, section 3.2: the profile and the compatibility of
        the base layer; ``dvcC`` and ``dvvC`` of MP4 are BlockAddIDExtraData of Matroska.
    """
    for one in elements(described(stream)):
        setup = inside(one.content, _EXTRA) if one.name == _ADDITION else b""
        if len(setup) >= 5 and setup[2] >> 1 in _DOLBY_COLORS and setup[4] >> 4 == 0:
            return True
    return False


def leave_room(stream: Any) -> None:
    """Make room for what `write_pixel_aspect` adds, before the header of an output is written."""
    stream.metadata["title"] = stream.metadata.get("title", "") + _ROOM


def write_pixel_aspect(path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    """Put the shape of pixels, which FFmpeg's muxer takes from no encoder, into the track that has room for it.

    Args:
        path: A finished file.
        aspect: Width of a pixel over its height.
        size: Width and height of the picture, in pixels.

    Reference:
        RFC 9559, Matroska, section 5.1.4.1.28, DisplayWidth and DisplayHeight.
    """
    shown = (round(size[0] * max(aspect, Fraction(1))), round(size[1] / min(aspect, Fraction(1))))
    shape = b"".join(_element(name, side.to_bytes(4)) for name, side in zip(_SHAPE, shown, strict=False))
    with path.open("r+b") as file:
        header = file.read(_HEADER)
        segment = next(one for one in elements(header) if one.name == SEGMENT)
        tracks = next(one for one in elements(segment.content) if one.name == TRACKS)
        track = next(one for one in elements(tracks.content) if one.name == TRACK and _is_picture(one))
        changed = tracks.content.replace(track.content, _with_shape(track.content, shape), 1)
        first = next(elements(changed))
        if first.name == _CRC:
            rest = changed[len(first.whole) :]
            changed = _element(_CRC, zlib.crc32(rest).to_bytes(4, "little")) + rest
        file.seek(segment.at + tracks.at)
        file.write(changed)


def _is_picture(track: Element) -> bool:
    return any(one.name == _TYPE and one.content == b"\x01" for one in elements(track.content))


def _with_shape(track: bytes, shape: bytes) -> bytes:
    """The description of a track, as long as before: the name gives its room to the shape, and the rest is void."""
    parts = []
    for one in elements(track):
        part = one.whole
        if one.name == VIDEO:
            kept = b"".join(inner.whole for inner in elements(one.content) if inner.name not in _SHAPE)
            part = _element(one.name, kept + shape)
        elif one.name == _NAME:
            name = one.content.removesuffix(_ROOM.encode())
            part = _element(_NAME, name) if name else b""
        parts.append(part)
    room = len(track) - sum(map(len, parts)) - 2
    return b"".join([*parts, _VOID, bytes([0x80 + room]), bytes(room)])


def _element(name: bytes, content: bytes) -> bytes:
    short = len(content) < 127
    return name + (bytes([0x80 + len(content)]) if short else (0x4000 + len(content)).to_bytes(2)) + content
