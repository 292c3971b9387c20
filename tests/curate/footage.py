"""Made videos and photographs, good and bad, for the tests of curation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from flashvsr.curate.rules import CurateRules, Limit

SIZE = (144, 192)  # rows, columns
RULES = replace(
    CurateRules(),
    name="test",
    val_fraction=0.3,
    segment_seconds=1.0,
    shard_samples=2,
    timeout=60.0,
    thresholds=CurateRules().thresholds
    | {"short_side": Limit(min=96), "photo_short_side": Limit(min=96), "seconds": Limit(min=0.5)},
)


def texture(seed: int, height: int = 2 * SIZE[0], width: int = 4 * SIZE[1]) -> np.ndarray:
    """`[h, w, 3]` uint8 with detail of every size, another for every seed."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (3, 9, 30, 90):
        small = Image.fromarray(random.integers(0, 256, (cells, 2 * cells, 3), np.uint8))
        total += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    return (total / 4).clip(0, 255).astype(np.uint8)


def pan(seed: int, count: int, speed: int = 3, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Frames of a camera that moves over a texture."""
    scene = texture(seed)
    return [scene[: size[0], speed * n : speed * n + size[1]] for n in range(count)]


def write_video(path: Path, frames: Sequence[np.ndarray], *, crf: int = 18, key: int = 12, **options: str) -> Path:
    """An H.264 file at 25 frames per second."""
    with av.open(str(path), "w", format=options.pop("format", "mp4")) as container:
        settings = {"crf": str(crf), "preset": "veryfast", "threads": "1"} | options
        settings["x264-params"] = f"keyint={key}:scenecut=40" + options.get("x264-params", "")
        stream = container.add_stream("libx264", rate=25, options=settings)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def weave(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Two frames in each: the even rows of one time, the odd ones of the next."""
    woven = []
    for first, second in zip(frames[::2], frames[1::2], strict=True):
        frame = first.copy()
        frame[1::2] = second[1::2]
        woven.append(frame)
    return woven


def letterbox(frames: Sequence[np.ndarray], bar: int) -> list[np.ndarray]:
    return [np.pad(frame, ((bar, bar), (0, 0), (0, 0))) for frame in frames]


def truncate(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def zero_out(path: Path) -> None:
    """Overwrite a stretch in the middle of the pictures."""
    media = bytearray(path.read_bytes())
    middle = media.find(b"mdat") + (len(media) - media.find(b"mdat")) // 3
    media[middle : middle + 2000] = bytes(2000)
    path.write_bytes(media)


def make_footage(folder: Path) -> Path:
    """Everything that a run should tell apart."""
    folder.mkdir(parents=True)
    write_video(folder / "good.mp4", pan(1, 60))
    write_video(folder / "two_scenes.mp4", [*pan(2, 30, speed=1), *[frame // 2 for frame in pan(3, 30, speed=1)]])
    write_video(folder / "letterboxed.mp4", letterbox(pan(4, 30), 24))
    write_video(folder / "mislabelled.jpg", pan(5, 30))
    write_video(folder / "still.mp4", [pan(6, 1)[0]] * 30)
    write_video(folder / "tiny.mp4", pan(7, 30, size=(64, 96)))
    write_video(folder / "short.mp4", pan(8, 8))
    write_video(folder / "interlaced.mp4", weave(pan(9, 60, speed=5)))
    write_video(folder / "flagged.mp4", pan(10, 30), **{"x264-params": ":tff=1"})
    write_video(folder / "again.mp4", pan(1, 60), crf=27, key=30)
    (folder / "same.mp4").write_bytes((folder / "good.mp4").read_bytes())
    truncate(write_video(folder / "cut_off.mkv", pan(11, 60), format="matroska"), 0.6)
    truncate(write_video(folder / "headless.mp4", pan(11, 30)), 0.6)
    zero_out(write_video(folder / "damaged.mp4", pan(12, 60)))
    write_video(folder / "dark.mp4", [frame // 40 for frame in pan(13, 30)])
    (folder / "words.mp4").write_text("this is no video\n" * 100)
    (folder / "empty.mkv").touch()
    picture = Image.fromarray(texture(20, 200, 300))
    picture.save(folder / "photo.png")
    picture.resize((60, 40)).save(folder / "small_photo.jpg")
    Image.fromarray(texture(21, 200, 300)).save(folder / "a_photo.mp4", "PNG")
    (folder / "notes.md").write_text("not a source")
    return folder


KEPT = {"good.mp4", "two_scenes.mp4", "letterboxed.mp4", "mislabelled.jpg", "photo.png", "a_photo.mp4"}
REJECTED: dict[str, tuple[str, Callable[[str], bool]]] = {
    "still.mp4": ("motion", lambda why: why.startswith("motion ")),
    "tiny.mp4": ("probe", lambda why: why == "short_side 64 < 96 pixels"),
    "short.mp4": ("probe", lambda why: why == "seconds 0.32 < 0.5 s"),
    "interlaced.mp4": ("probe", lambda why: why.startswith("combing 1.")),
    "flagged.mp4": ("probe", lambda why: why == "interlaced, as its frames say"),
    "again.mp4": ("duplicates", lambda why: "like good.mp4" in why),
    "same.mp4": ("duplicates", lambda why: why == "the same bytes as good.mp4"),
    "cut_off.mkv": ("scenes", lambda why: why.startswith("damaged: cut off at 1.")),
    "headless.mp4": ("probe", lambda why: "Invalid data" in why),
    "damaged.mp4": ("probe", lambda why: "Invalid data" in why),
    "dark.mp4": ("probe", lambda why: why == "black all over"),
    "words.mp4": ("probe", lambda why: "Invalid data" in why),
    "empty.mkv": ("probe", lambda why: "Invalid data" in why or "nd of file" in why),
    "small_photo.jpg": ("probe", lambda why: why == "photo_short_side 40 < 96 pixels"),
}
