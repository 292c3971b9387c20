"""WebDataset shards from folders of videos and images."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor

from flashvsr.data.clip_encoder import ClipEncoder
from flashvsr.data.shard_index import INDEX, write_index
from flashvsr.data.tar_samples import ShardError
from flashvsr.video.info import VideoError, VideoInfo, plain_errors
from flashvsr.video.picture.pixels import resolve_colors
from flashvsr.video.picture.tone_map import tone_map
from flashvsr.video.reader import VideoReader

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".m4v", ".avi", ".ts", ".264", ".h264", ".265", ".hevc")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SHARD = re.compile(r"shard-\d{5,}\.tar")


@dataclass(frozen=True)
class ShardRules:
    """How sources become samples.

    Attributes:
        video_short_side: Videos are shrunk to at most this many pixels on their short side; None keeps their size.
        image_short_side: The same of images.
        shrink: Factor, 1 or more, by which everything is shrunk at least: 2 makes compressed footage sharp.
        downscale: File name or path (relative to its source folder) to the factor, 1 or more, by which it is shrunk
            at least.
        min_short_side: Samples that end up smaller are left out, and counted.
        clip_seconds: Longer videos become several clips of about this length; None keeps them whole.
        max_seconds: Only the first seconds of every video; None takes all.
        crf: Quality of H.264 (libx264); lower is better.
        image_quality: Of WebP, 1 to 100.
        max_mib: Size at which a shard is closed, in MiB.
        total_mib: Size of all shards that is never exceeded: more is an error, raised when it happens.

    Raises:
        ValueError: If `shrink` is below 1.
    """

    video_short_side: int | None = None
    image_short_side: int | None = None
    shrink: float = 1.0
    downscale: dict[str, float] = field(default_factory=dict)
    min_short_side: int = 0
    clip_seconds: float | None = None
    max_seconds: float | None = None
    crf: float = 14
    image_quality: int = 92
    max_mib: float = 16
    total_mib: float | None = None

    def __post_init__(self) -> None:
        if not self.shrink >= 1:
            raise ValueError(f"a factor of {self.shrink} enlarges: expected 1 or more")


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard: its key, the ending and the bytes of its picture, its metadata."""

    key: str
    ending: str
    media: bytes
    metadata: dict[str, Any]


def make_shards(
    sources: Sequence[str | Path],
    out: str | Path,
    rules: ShardRules,
    *,
    overwrite: bool = False,
    on_progress: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write ``shard-00000.tar`` and on, and their index, from all videos and images below some folders.

    The same sources, rules and versions of the encoders give the same bytes. Videos and images alternate, so that
    every shard holds both. HDR becomes SDR (`tone_map`), rotation is applied, sound is dropped. The folder appears
    when all of it is written.

    Args:
        sources: Files and folders, searched recursively.
        out: Folder to make.
        rules: Sizes, lengths, quality.
        overwrite: Replace ``out`` if it is a folder that holds nothing but shards.
        on_progress: Called with one line per source, and one for each that was left out and why.

    Returns:
        The shards.

    Raises:
        ShardError: If ``out`` exists, no source can be used, two sources would get one key, or ``total_mib`` is
            exceeded.
    """
    out = Path(out).resolve()  # a symbolic link stays one
    _check_target(out, overwrite)
    files = _interleave(_find(sources))
    if not files:
        raise ShardError(
            f"no videos or images in {', '.join(map(str, sources))}\nexpected files such as .mp4, .mkv, .jpg, .png"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out if out.exists() else out.parent))
    try:
        names = _write(folder, _samples(files, rules, on_progress), rules)
        if not names:
            raise ShardError(f"none of the {len(files)} sources can be used\nthe lines above say why")
        write_index([folder / name for name in names], folder / INDEX)
        if out.exists():
            for old in (out / INDEX, *_shards(out)):
                old.unlink(missing_ok=True)
            for name in (*names, INDEX):
                (folder / name).replace(out / name)
        else:
            folder.chmod(0o755)
            folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [out / name for name in names]


def _shards(out: Path) -> list[Path]:
    """What is in a folder under a name that `make_shards` gives."""
    return [path for path in out.iterdir() if _SHARD.fullmatch(path.name)]


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    shards = set(_shards(out)) if out.is_dir() else set()
    if not out.is_dir() or any(
        path not in shards and path.name != INDEX and path.name[0] != "." for path in out.iterdir()
    ):
        raise ShardError(f"{out} exists and holds other things than shards\nname a new folder")
    if shards and not overwrite:
        raise ShardError(f"{out} holds shards already\nuse --overwrite to replace them, or name a new folder")


def _find(sources: Sequence[str | Path]) -> list[tuple[Path, str]]:
    """Every file with its name relative to the source that it was found in."""
    found = []
    for source in map(Path, sources):
        if not source.exists():
            raise ShardError(f"{source}: no such file or folder")
        paths = sorted(source.rglob("*")) if source.is_dir() else [source]
        found += [
            (path, path.relative_to(source).as_posix() if source.is_dir() else path.name)
            for path in paths
            if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES + IMAGE_SUFFIXES
        ]
    return found


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _interleave(files: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Images and videos in turn, spread evenly; within a kind in their order."""
    placed = []
    for kind in (True, False):
        chosen = [file for file in files if _is_image(file[0]) == kind]
        placed += [((number + 0.5) / len(chosen), kind, file) for number, file in enumerate(chosen)]
    return [file for *_, file in sorted(placed, key=lambda item: item[:2])]


def _samples(
    files: list[tuple[Path, str]], rules: ShardRules, on_progress: Callable[[str], None]
) -> Iterator[ShardSample]:
    keys: dict[str, str] = {}
    for path, name in files:
        try:
            made = [_image(path, name, rules)] if _is_image(path) else _clips(path, name, rules)
            for sample in made:
                if keys.setdefault(sample.key, name) != name:
                    raise ShardError(f"{name} and {keys[sample.key]} would both be called {sample.key}: rename one")
                yield sample
                meta = sample.metadata
                size = f"{meta['width']}x{meta['height']}, {meta['frames']} frames, {len(sample.media) >> 10} KiB"
                on_progress(f"{sample.key}: {size}")
        except VideoError as error:
            on_progress(f"left out {name}: {str(error).splitlines()[0]}")


def _image(path: Path, name: str, rules: ShardRules) -> ShardSample:
    with plain_errors(f"cannot read {path} as an image", "it is not an image, or damaged"), Image.open(path) as image:
        source = (image.width, image.height)
        picture = ImageOps.exif_transpose(image).convert("RGB")
    size = _target_size(picture.size, name, rules, rules.image_short_side)
    if size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=rules.image_quality, method=4, use_sharp_yuv=True)
    metadata = {"kind": "image", "source": name, "source_size": source, "frames": 1, "fps": None}
    return ShardSample(_key(name), "webp", buffer.getvalue(), metadata | {"width": size[0], "height": size[1]})


def _clips(path: Path, name: str, rules: ShardRules) -> Iterator[ShardSample]:
    with VideoReader(path) as reader:
        info = reader.info
        size = _target_size((info.width, info.height), name, rules, rules.video_short_side)
        rate = Fraction(info.frame_rate or 25).limit_denominator(1001)
        last = round(rules.max_seconds * rate) if rules.max_seconds else 1 << 40
        length, pieces = _cut(min(info.frames or last, last), rate, rules.clip_seconds)
        encoder, number = ClipEncoder(size, rate, rules.crf), 0
        for index, frame in enumerate(reader):
            if index == last:
                break
            if encoder.frames == length and number < pieces - 1:
                yield _clip(encoder, name, number, info)
                encoder, number = ClipEncoder(size, rate, rules.crf), number + 1
            encoder.write(_sdr(frame.pixels, info))
        yield _clip(encoder, name, number, info)


def _clip(encoder: ClipEncoder, name: str, number: int, info: VideoInfo) -> ShardSample:
    width, height = encoder.size
    metadata = {
        "kind": "video",
        "source": name,
        "source_size": (info.width, info.height),
        "frames": encoder.frames,
        "fps": float(encoder.rate),
        "width": width,
        "height": height,
    }
    return ShardSample(f"{_key(name)}-{number:03d}", "mp4", encoder.close(), metadata)


def _cut(frames: int, rate: Fraction, seconds: float | None) -> tuple[int, int]:
    """Length in frames and number of the clips of a video; the last one takes what is left."""
    if seconds is None:
        return frames, 1
    pieces = max(1, round(frames / (seconds * rate)))
    return -(-frames // pieces), pieces


def _sdr(pixels: Tensor, info: VideoInfo) -> Tensor:
    return tone_map(pixels, resolve_colors(info.colors, info.width, info.height)) if info.is_hdr else pixels


def _target_size(size: tuple[int, int], name: str, rules: ShardRules, short_side: int | None) -> tuple[int, int]:
    factor = max(rules.shrink, rules.downscale.get(name, rules.downscale.get(Path(name).name, 1.0)))
    scale = min(1 / factor, 1.0)
    if short_side is not None:
        scale = min(scale, short_side / min(size))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in size)
    if min(width, height) < rules.min_short_side:
        raise VideoError(f"{width}x{height} is smaller than {rules.min_short_side}")
    return width, height


def _key(name: str) -> str:
    """A name without its ending, free of the dots and slashes that mean something in a tar of samples."""
    return str(Path(name).with_suffix("")).replace("/", "__").replace(".", "_")


def _write(folder: Path, samples: Iterator[ShardSample], rules: ShardRules) -> list[str]:
    """All samples into shards; their names."""
    names: list[str] = []
    filled = total = 0
    with ExitStack() as current:
        for sample in samples:
            size = len(sample.media) + 2048
            total += size
            if rules.total_mib is not None and total > rules.total_mib * 2**20:
                raise ShardError(
                    f"the shards exceed {rules.total_mib:g} MiB at {sample.key}\nshrink more, or raise --total-mib"
                )
            if not names or filled + size > rules.max_mib * 2**20:
                current.close()
                names.append(f"shard-{len(names):05d}.tar")
                target = folder / names[-1]
                tar, filled = current.enter_context(tarfile.open(target, "w", format=tarfile.PAX_FORMAT)), 0
            add_member(tar, f"{sample.key}.{sample.ending}", sample.media)
            add_member(tar, f"{sample.key}.json", json.dumps(sample.metadata, sort_keys=True).encode())
            filled += size
    return names


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar, with nothing of this machine or moment."""
    member = tarfile.TarInfo(name)  # owner, time and mode as they are here: nothing of this machine
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
