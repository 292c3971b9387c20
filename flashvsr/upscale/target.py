"""Where the result goes, and how it gets its final name only when it is complete."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flashvsr.video import PICTURE_SUFFIXES, image_name, is_pattern, is_picture, numbered_images

WRITTEN_PICTURES = (".png", ".jpg", ".jpeg")
LONGEST_NAME = 255  # bytes in a file name, on most file systems


@dataclass(frozen=True)
class Target:
    """An output as its user wrote it.

    Attributes:
        name: As written.
        kind: ``"pipe"`` for ``-``; ``"pattern"`` for images by a printf pattern; ``"folder"`` for images in a folder: a
            name without an ending, or one of an existing folder; ``"picture"`` for one image; else ``"file"``.
    """

    name: str
    kind: Literal["pipe", "file", "folder", "pattern", "picture"]

    @classmethod
    def parse(cls, output: str | Path, format: str = "auto") -> Target:
        """Tell what ``output`` means; a name without an ending is a file when its container is given by ``format``.

        Raises:
            ValueError: If a container is given for images, the images of a pattern are not PNG, or a picture is neither
                PNG nor JPEG.
        """
        path = Path(output)
        if str(output) == "-":
            return cls("-", "pipe")
        pattern = is_pattern(path.name)
        if pattern:
            image_name(path.name, 1)  # which refuses what it cannot number
        if not pattern and not path.is_dir() and format == "auto" and path.suffix.lower() in PICTURE_SUFFIXES:
            if path.suffix.lower() not in WRITTEN_PICTURES:
                raise ValueError(f"{output}: pictures are written as PNG or JPEG, let the name end in .png or .jpg")
            return cls(str(output), "picture")
        if not pattern and not path.is_dir() and (path.suffix or format != "auto"):
            return cls(str(output), "file")
        if format != "auto":
            raise ValueError(f"{output} stands for images, which --format {format} does not hold: name a file")
        if pattern and path.suffix.lower() != ".png":
            raise ValueError(f"{output}: images are written as PNG, let the pattern end in .png")
        return cls(str(output), "pattern" if pattern else "folder")

    @property
    def path(self) -> Path:
        """The name as a path; where it leads when it is a symbolic link, which stays one."""
        path = Path(self.name)
        return path.resolve() if path.is_symlink() else path

    @property
    def is_images(self) -> bool:
        """Whether each frame becomes a file of its own."""
        return self.kind in ("folder", "pattern", "picture")

    @property
    def partial(self) -> Path:
        """The folder to work in, on the same disk: ``OUTPUT.partial``, ``FOLDER.partial`` for ``FOLDER/%d.png``."""
        place = self.path.parent if self.kind == "pattern" else self.path
        if place.name in ("", ".."):
            return place / "frames.partial"
        return place.with_name(_with_ending(place.name, ".partial"))

    def check(self, source: str | Path, *, overwrite: bool) -> None:
        """Refuse an output that would destroy something, or that cannot be written.

        Args:
            source: The input.
            overwrite: Whether files of an existing output may be replaced. Other files in its folder stay in any case.

        Raises:
            ValueError: If the output would replace the input.
            FileExistsError: If the output is there and may not be replaced.
            FileNotFoundError: If the folder it belongs in is not there.
        """
        if self.kind == "pipe":
            return
        if self.path.exists() and not self.path.is_file() and not self.path.is_dir():
            raise ValueError(f"{self.name} is a device or a pipe, not a file: write to - and lead that there with >")
        if self._would_replace(Path(source)):
            raise ValueError(f"{self.name} is both input and output: choose another output")
        if self.kind == "picture" and not is_picture(source):
            raise ValueError(
                f"{self.name} is one picture, and {source} is none: check its name, or write to a video, a folder, or"
                f" a pattern such as {self.path.stem}_%05d.png"
            )
        if self.is_images and self._folder.exists() and not self._folder.is_dir():
            raise FileExistsError(f"{self._folder} is a file, not a folder for images: choose another output")
        if not overwrite and self._occupied():
            raise FileExistsError(f"{self.name} exists already: choose another output, or replace it with --overwrite")
        if self.is_images and (folders := [path for _, path in self._earlier_images() if path.is_dir()]):
            raise FileExistsError(f"{folders[0]} is a folder where an image would be written: choose another output")
        if not self.partial.parent.is_dir():
            raise FileNotFoundError(f"the folder {self.partial.parent} does not exist: create it, or choose another")

    @property
    def suffix(self) -> str:
        """The ending that names a file's container; nothing for images, which are completed in a folder."""
        return "" if self.is_images else Path(self.name).suffix

    @property
    def image_pattern(self) -> str:
        """How images are called; in a folder ``00001.png`` and so on."""
        if self.kind == "picture":
            return f"%d{self.path.suffix.lower()}"
        return self.path.name if self.kind == "pattern" else "%05d.png"

    def place(self, joined: Path, frames: int) -> None:
        """Give the finished result its final name.

        Images replace those of the same series; whatever else lies in their folder stays. It may be interrupted and
        called again: files that have their name already stay.

        Args:
            joined: The complete file, or for images the folder that holds them, on the same disk.
            frames: How many frames it has.
        """
        if not joined.exists():
            return
        if self.kind == "picture":
            (joined / image_name(self.image_pattern, 1)).replace(self.path)
        elif self.is_images and self._folder.exists():
            self._place_images(joined, frames)
        else:
            joined.replace(self._folder if self.is_images else self.path)

    @property
    def _folder(self) -> Path:
        """Where images lie in the end."""
        return self.path.parent if self.kind in ("pattern", "picture") else self.path

    def _earlier_images(self) -> list[tuple[int, Path]]:
        """Images that are there under names of this series, by number."""
        if self.kind == "picture":
            return [(1, self.path)] if self.path.exists() else []
        return numbered_images(self._folder / self.image_pattern)

    def _would_replace(self, source: Path) -> bool:
        """Whether the input, or an image of it, would be replaced or deleted by the result or by the work on it."""
        place = source.resolve()
        if self.partial.resolve() in (place, *place.parents):
            return True
        if is_pattern(source.name) and not source.exists():
            inputs = [image for _, image in numbered_images(source)]
        else:
            inputs = [source, *(source.iterdir() if source.is_dir() else ())]
        images = [path for _, path in self._earlier_images()]
        ours = [self._folder, *images] if self.kind in ("folder", "pattern") else [self.path]
        return not {path.resolve() for path in inputs}.isdisjoint(path.resolve() for path in ours)

    def _occupied(self) -> bool:
        if self.kind in ("file", "picture"):
            return self.path.exists()
        if self.kind == "folder":
            return self.path.exists() and any(path.name != self.partial.name for path in self.path.iterdir())
        return bool(self._earlier_images())

    def _place_images(self, joined: Path, frames: int) -> None:
        for number, image in self._earlier_images():
            if not 1 <= number <= frames:
                image.unlink()  # of a longer series, which this one replaces
        for image in joined.iterdir():
            image.replace((self._folder / image.name).resolve())


def _with_ending(name: str, ending: str) -> str:
    """A file name with something added, cut and told apart by a hash where it would be too long."""
    if len(os.fsencode(name + ending)) <= LONGEST_NAME:
        return name + ending
    told = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    while len(os.fsencode(f"{name}~{told}{ending}")) > LONGEST_NAME:
        name = name[:-1]
    return f"{name}~{told}{ending}"
