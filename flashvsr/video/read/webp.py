"""Animated WebP, which FFmpeg does not read: its frames by Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flashvsr.video.info import Colors, VideoError, VideoFrame, VideoInfo
from flashvsr.video.trim import WHOLE, Trim

_TICK = Fraction(1, 1000)  # of the format's clock
_UNSAID = 100  # ticks that browsers show a frame of duration 0
_FULL = 2


def is_animated_webp(source: str | Path) -> bool:
    """Whether this is the file of a WebP picture that moves, whatever its name ends in."""
    path = Path(source)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(64)
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP" and b"ANIM" in head


class AnimatedWebP:
    """The frames of an animated WebP file, whole pictures at their own times, with their opacity. It plays once.

    Args:
        source: The file.
        trim: The part that is wanted.

    Raises:
        VideoError: If it cannot be read, or ends before the part that is wanted.

    Reference:
        https://developers.google.com/speed/webp/docs/riff_container
    """

    def __init__(self, source: str, *, trim: Trim = WHOLE) -> None:
        self.warnings: list[str] = []
        self.tracks = None
        self._source = source
        durations = _durations(Path(source))
        begun = [_TICK * ticks for ticks in accumulate(durations, initial=0)]
        wanted = [
            number
            for number, time in enumerate(begun[:-1])
            if time >= trim.start and (trim.end is None or time < trim.end)
        ]
        if durations and not wanted:
            raise VideoError(trim.too_late(source, begun[-1]))
        self._times = {number: begun[number] - begun[wanted[0]] for number in wanted}
        self.last_duration = _TICK * durations[wanted[-1]] if wanted else None
        first = next(self._pictures(), None)
        if first is None:
            raise VideoError(f"{source} has no frames that can be decoded\nit is empty or damaged")
        self.info = VideoInfo(
            width=first.shape[2],
            height=first.shape[1],
            frame_rate=len(durations) / begun[-1],
            time_base=_TICK,
            frames=len(wanted),
            colors=Colors(primaries=1, transfer=2, matrix=0, range=_FULL),
            has_alpha=bool(first[3].min() < 255),
            source=source,
        )

    def frames(self, skip: int) -> Iterator[VideoFrame]:
        """The frames after the first ``skip``."""
        for picture, (position, time) in zip(self._pictures(), enumerate(self._times.values()), strict=True):
            if position >= skip:
                alpha = picture[3].float() / 255 if self.info.has_alpha else None
                yield VideoFrame(picture[:3].contiguous(), time, alpha)

    def close(self) -> None:
        """Nothing is kept open."""

    def _pictures(self) -> Iterator[torch.Tensor]:
        """`[4, h, w]` uint8, red, green, blue and opacity, of every frame that is wanted."""
        number = 0
        try:
            with Image.open(self._source, formats=("WEBP",)) as image:
                for number in self._times:
                    image.seek(number)
                    yield torch.from_numpy(np.array(image.convert("RGBA"))).movedim(2, 0)
        except (OSError, EOFError, ValueError, Image.DecompressionBombError) as error:
            time = float(self._times.get(number, 0))
            raise VideoError(
                f"{self._source} is damaged or cut off at {time:.2f} s: {error}\n"
                "what comes before is fine: repair the file, or cut it there first"
            ) from error


def _durations(path: Path) -> list[int]:
    """How long each frame is shown, in milliseconds, as its header says."""
    durations, size = [], path.stat().st_size
    with path.open("rb") as file:
        place = 12
        while place + 8 <= size:
            file.seek(place)
            head = file.read(24)  # name and length of a chunk, and of a frame its place, size and duration
            if head[:4] == b"ANMF" and len(head) > 22:
                durations.append(int.from_bytes(head[20:23], "little") or _UNSAID)
            length = int.from_bytes(head[4:8], "little")
            place += 8 + length + length % 2
    return durations
