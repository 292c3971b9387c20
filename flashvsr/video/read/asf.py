"""The length that ASF (WMV) states, which FFmpeg does not tell of a file that was cut short."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_HEADER = 1 << 16  # bytes that are searched
_BROADCAST = 1  # the header was written before the length was known


def asf_length(path: Path) -> Fraction | None:
    """Seconds of picture and sound, as the header of a file states them.

    Args:
        path: An ASF file; a pipe is not read.

    Returns:
        The length; None when the file does not state it.

    Reference:
        Advanced Systems Format (ASF) Specification, revision 01.20.05, section 3.2, File Properties Object.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        header = file.read(_HEADER)
    at = header.find(_FILE_PROPERTIES)
    if at < 0 or len(header) < at + 92:
        return None
    play, _, preroll, flags = struct.unpack("<QQQI", header[at + 64 : at + 92])  # 100 ns, 100 ns, ms
    length = Fraction(play, 10_000_000) - Fraction(preroll, 1000)
    return None if flags & _BROADCAST or length <= 0 else length
