"""Folders of images and printf patterns, as video."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from flashvsr.video.addresses import is_address
from flashvsr.video.info import Colors, VideoError, VideoFrame, VideoInfo, file_url, plain_errors
from flashvsr.video.picture.alpha import is_transparent
from flashvsr.video.picture.pixels import FromRGB, ToRGB, bit_depth, frame_colors, resolve_colors
from flashvsr.video.read.webp import is_animated_webp
from flashvsr.video.trim import WHOLE, Trim

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_OF_SERIES = (*PICTURE_SUFFIXES, ".exr", ".dpx", ".tga", ".jp2", ".ppm", ".pgm", ".gif", ".avif")
_WRITTEN = (".png", ".jpg", ".jpeg")
_JPEG_QUALITY = 95  # of 100; with full-resolution colour
_NUMBER = re.compile(r"%%|%0(\d+)d|%d(?![A-Za-z])")  # or a percent sign; 50%done.png holds none
_FULL = 2


def is_picture(source: str | Path) -> bool:
    """Whether this is a file with the ending of a picture, and not an animation."""
    path = Path(source)
    if path.suffix.lower() not in PICTURE_SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(1 << 12)
    return b"acTL" not in head and not is_animated_webp(path)


def is_pattern(name: str) -> bool:
    """Whether a name holds a printf number, such as ``frames/%05d.png``."""
    path = Path(name)
    return path.suffix.lower() in _OF_SERIES and any(match[0] != "%%" for match in _NUMBER.finditer(path.name))


def image_name(pattern: str, number: int) -> str:
    """The file name that a printf pattern gives a number; ``%%`` stands for a percent sign.

    Raises:
        VideoError: If the name holds several numbers.
    """
    before, width, after = _parts(pattern)
    return f"{before}{number:0{width}d}{after}"


def _parts(pattern: str) -> tuple[str, int, str]:
    """What stands before the number of a file name, its least width, and what stands behind."""
    found = [match for match in _NUMBER.finditer(pattern) if match[0] != "%%"]
    if len(found) != 1:
        raise VideoError(
            f"{pattern} holds {len(found)} numbers, expected one\nwrite %% for a percent sign that is none"
        )
    before, after = pattern[: found[0].start()], pattern[found[0].end() :]
    return before.replace("%%", "%"), int(found[0][1] or 0), after.replace("%%", "%")


def numbered_images(pattern: str | Path) -> list[tuple[int, Path]]:
    """Files that a printf pattern names, by number; a file whose number is padded otherwise is another series'."""
    folder, name = Path(pattern).parent, Path(pattern).name
    before, _, after = _parts(name)
    exact = re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")
    found = [(exact.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(
        (int(match[1]), path) for match, path in found if match and image_name(name, int(match[1])) == path.name
    )


def is_image_target(target: str | Path) -> bool:
    """Whether `VideoWriter` writes images for this name: a printf pattern, a folder, or a name without an ending."""
    path = Path(target)
    return (
        str(target) != "-" and not is_address(target) and (is_pattern(str(target)) or path.is_dir() or not path.suffix)
    )


class ImageSource:
    """The images of a folder (natural order: 2 before 10) or of a printf pattern (by number), or one picture.

    16-bit images are read in full depth. All images must have the size of the first.

    Args:
        source: A folder, a pattern, or the file of a picture.
        fps: Frames per second; None: 25, with a warning when there are several images.
        trim: The part that is wanted of a series; a picture is taken whole.

    Raises:
        VideoError: No images, a number missing in the middle of a pattern, an unreadable image, or one of another size.
    """

    def __init__(self, source: str, *, fps: Fraction | None = None, trim: Trim = WHOLE) -> None:
        self.warnings: list[str] = []
        self.tracks = None
        self.last_duration = 1 / Fraction(fps or 25)
        self._paths = _images_of(source)
        rate = Fraction(fps or 25)
        if not Path(source).is_file():
            wanted = trim.numbers(rate, len(self._paths), source)
            self._paths = self._paths[wanted.start : wanted.stop]
        if fps is None and not Path(source).is_file():
            self.warnings.append(f"{source}: images have no frame rate, 25 per second is used; --fps sets another")
        first = _read(self._paths[0])
        self._depth = bit_depth(first)
        pixels = self._converter(first)(first)
        self.info = VideoInfo(
            width=pixels.shape[2],
            height=pixels.shape[1],
            frame_rate=rate,
            time_base=1 / rate,
            frames=len(self._paths),
            bit_depth=self._depth,
            colors=Colors(primaries=1, transfer=2, matrix=0, range=_FULL),
            has_alpha=is_transparent(first),
            icc_profile=_rgb_profile(self._paths[0]),
            source=source,
        )

    def frames(self, skip: int) -> Iterator[VideoFrame]:
        """The images after the first ``skip``, which are not even opened."""
        for number, path in enumerate(self._paths[skip:], start=skip):
            frame = _read(path)
            converter = self._converter(frame)
            pixels = converter(frame)
            if pixels.shape[1:] != (self.info.height, self.info.width):
                expected = f"{self.info.width}x{self.info.height}"
                raise VideoError(
                    f"{path} is {pixels.shape[2]}x{pixels.shape[1]}, the images before it are {expected}\n"
                    "give all images one size, or upscale each size on its own"
                )
            alpha = converter.alpha(frame) if self.info.has_alpha else None
            yield VideoFrame(pixels, number * self.info.time_base, alpha)

    def close(self) -> None:
        """Nothing is kept open."""

    def _converter(self, frame: av.VideoFrame) -> ToRGB:
        colors = frame_colors(frame)
        if colors.matrix != 0:  # JPEG, WebP and gray: always bt601 (JFIF); gray is full range
            gray = len(frame.format.components) < 3
            colors = Colors(matrix=5, range=_FULL if gray else colors.range)
        return ToRGB(resolve_colors(colors, 1, 1), deep=self._depth > 8)


class ImageSink:
    """Frames as PNG files, 8 or 16 bits, or as JPEG files.

    Args:
        target: A folder, where files are called ``00001.png`` and on, or a printf pattern ending in ``.png`` or
            ``.jpg``.
        deep: 16 bits per channel in PNG files.
        alpha: With an alpha channel, which JPEG does not hold.
        first_number: Number of the first file (a resumed run continues where it stopped).
        icc_profile: Colour profile to put into the files; those of 16 bits cannot hold one.

    Attributes:
        warnings: One line each: what the files do not hold.
        alpha: Whether there is an alpha channel.

    Raises:
        VideoError: The folder cannot be made or written, or the pattern ends in something else.
    """

    def __init__(
        self,
        target: str | Path,
        *,
        deep: bool,
        alpha: bool = False,
        first_number: int = 1,
        icc_profile: bytes | None = None,
    ) -> None:
        name = str(target)
        self._pattern = name if is_pattern(name) else str(Path(name) / "%05d.png")
        suffix = Path(self._pattern).suffix.lower()
        if suffix not in _WRITTEN:
            raise VideoError(
                f"cannot write {self._pattern}: images are written as PNG or JPEG\nlet the name end in .png or .jpg"
            )
        self.warnings: list[str] = []
        if deep and suffix != ".png":
            deep = False
            self.warnings.append("JPEG holds 8 bits: the picture has more; PNG keeps them")
        self.alpha = alpha and suffix == ".png"
        if alpha and not self.alpha:
            self.warnings.append("JPEG holds no transparency: the result has none; PNG keeps it")
        if deep and icc_profile:
            self.warnings.append("the colour profile is not kept in pictures of 16 bits")
        self._jpeg = suffix != ".png"
        self._profile = None if deep else icc_profile
        self._number = first_number
        self._written: list[Path] = []
        self._format = {(0, 0): "rgb24", (0, 1): "rgba", (1, 0): "rgb48be", (1, 1): "rgba64be"}[deep, self.alpha]
        self._to_frame = FromRGB(self._format, Colors(primaries=1, transfer=13, matrix=1, range=_FULL))
        image_name(Path(self._pattern).name, first_number)
        with plain_errors(f"cannot write to {Path(self._pattern).parent}", "check the name of the folder"):
            Path(self._pattern).parent.mkdir(parents=True, exist_ok=True)

    def write(self, pixels: Tensor, time: Fraction, alpha: Tensor | None = None) -> None:
        """Write the next image; ``time`` is not kept."""
        path = Path(self._pattern).parent / image_name(Path(self._pattern).name, self._number)
        frame = self._to_frame(pixels, alpha)
        with plain_errors(f"cannot write {path}", "check the folder"):
            content = self._with_pillow(frame) if self._jpeg or self._profile else self._png(frame)
            self._written.append(path)
            path.write_bytes(content)
        self._number += 1

    def _png(self, frame: av.VideoFrame) -> bytes:
        encoder = av.CodecContext.create("png", "w")
        assert isinstance(encoder, av.VideoCodecContext)
        encoder.height, encoder.width = frame.height, frame.width
        encoder.pix_fmt = self._format
        encoder.time_base = Fraction(1, 25)
        return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])

    def _with_pillow(self, frame: av.VideoFrame) -> bytes:
        """A JPEG, or a PNG with a colour profile; FFmpeg's PNG states colours of its own, which go before a profile."""
        content = io.BytesIO()
        options: dict[str, Any] = {"quality": _JPEG_QUALITY, "subsampling": 0} if self._jpeg else {}
        image = Image.fromarray(frame.to_ndarray())
        image.save(content, "JPEG" if self._jpeg else "PNG", icc_profile=self._profile, **options)
        return content.getvalue()

    def close(self, last_duration: Fraction | None = None) -> None:
        """Nothing is kept open, nor how long the last image is shown."""

    def abort(self) -> None:
        """Delete the images written."""
        for path in self._written:
            path.unlink(missing_ok=True)


def _images_of(source: str) -> list[Path]:
    if Path(source).is_file():
        return [Path(source)]
    return _numbered(source) if is_pattern(source) else _in_folder(Path(source))


def _rgb_profile(path: Path) -> bytes | None:
    """The colour profile of a picture; one of gray or CMYK pixels does not fit those that are read from it."""
    try:
        with Image.open(path) as image:
            profile: bytes | None = image.info.get("icc_profile")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):  # FFmpeg reads more kinds and sizes
        return None
    return profile if profile and profile[16:20] == b"RGB " else None


def _in_folder(folder: Path) -> list[Path]:
    with plain_errors(f"cannot read the folder {folder}", "check its name"):
        paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES and path.name[:2] != "._"]
    if not paths:
        raise VideoError(f"{folder} holds no images\nexpected files ending in {', '.join(PICTURE_SUFFIXES)}")
    return sorted(
        paths, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    )


def _numbered(pattern: str) -> list[Path]:
    folder, name = Path(pattern).parent, Path(pattern).name
    if not folder.is_dir():
        raise VideoError(f"{pattern}: there is no folder {folder}\ncheck the name")
    images = numbered_images(pattern)
    numbers = [number for number, _ in images]
    if not numbers:
        raise VideoError(f"{pattern}: no file has such a name\nexpected {image_name(name, 1)} and so on in {folder}")
    if len(numbers) != numbers[-1] - numbers[0] + 1:
        missing = next(a + 1 for a, b in pairwise(numbers) if b != a + 1)
        raise VideoError(
            f"{folder / image_name(name, missing)} is missing, later numbers are there\ngive the whole series"
        )
    return [path for _, path in images]


def _opened(path: Path) -> Any:
    return av.open(file_url(path), options={"pattern_type": "none"})


def _read(path: Path) -> av.VideoFrame:
    """Decode one image file."""
    with plain_errors(f"cannot read {path} as an image", "replace or remove it"), _opened(path) as container:
        frame = next(container.decode(video=0), None) if container.streams.video else None
    if frame is None:
        raise VideoError(f"cannot read {path} as an image: it holds no picture\nreplace or remove it")
    return frame
