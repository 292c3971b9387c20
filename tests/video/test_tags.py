"""Title, artist, time of creation and chapters come along, or are named as lost."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from flashvsr.video import SEGMENT_SUFFIX, VideoReader, VideoWriter, join_segments

TEXTS = {
    "title": "My Film",
    "artist": "Someone",
    "comment": "a note",
    "creation_time": "2020-01-02T03:04:05.000000Z",
}


def chapter(number: int, start: int, end: int, title: str) -> dict:
    return {"id": number, "start": start, "end": end, "time_base": Fraction(1, 1000), "metadata": {"title": title}}


def source(path: Path, codec: str = "libx264", texts: dict[str, str] = TEXTS, start: int = 0) -> Path:
    """25 frames; ``start`` is the time of the first, in frames of 40 ms."""
    first = 40 * start
    with av.open(str(path), "w") as container:
        container.metadata.update(texts)
        container.set_chapters([chapter(1, first, first + 400, "One"), chapter(2, first + 400, first + 1000, "Two")])
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["title"] = "Main picture"
        for number in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 8, np.uint8), format="rgb24")
            frame.pts, frame.time_base = start + number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def copy(path: Path, target: Path) -> list[str]:
    with (
        VideoReader(path) as reader,
        VideoWriter(target, width=64, height=48, info=reader.info, copy_tracks_from=reader) as writer,
    ):
        for frame in reader:
            writer.write(frame.pixels, frame.time)
    return writer.warnings


def join(path: Path, target: Path) -> list[str]:
    segment = path.parent / f"1{SEGMENT_SUFFIX}"
    with VideoReader(path) as reader, VideoWriter(segment, width=64, height=48, info=reader.info) as writer:
        for frame in reader:
            writer.write(frame.pixels, frame.time)
    return join_segments([segment], target, source=path)


def held(path: Path) -> tuple[dict[str, str], list[tuple[float, float, str]]]:
    with av.open(str(path)) as container:
        chapters = [
            (float(one["start"] * one["time_base"]), float(one["end"] * one["time_base"]), one["metadata"]["title"])
            for one in container.chapters()
        ]
        return {key.lower(): value for key, value in container.metadata.items()}, chapters


@pytest.mark.parametrize("way", [copy, join])
@pytest.mark.parametrize("into", ["mp4", "mov", "mkv", "nut"])
@pytest.mark.parametrize("start", ["mkv", "mp4"])
def test_what_a_file_says_about_itself_comes_along(tmp_path, start, into, way):
    assert way(source(tmp_path / f"in.{start}"), tmp_path / f"out.{into}") == []
    texts, chapters = held(tmp_path / f"out.{into}")
    assert TEXTS.items() <= texts.items()
    assert chapters == [(0, 0.4, "One"), (0.4, 1, "Two")]
    with VideoReader(tmp_path / f"out.{into}") as reader:
        assert reader.tracks.tags.picture["title"] == "Main picture"


@pytest.mark.parametrize("way", [copy, join])
@pytest.mark.parametrize(
    ("into", "missing", "chapters"),
    [
        ("ts", "artist, comment, creation_time, title", True),
        ("avi", "creation_time", True),
        ("h264", "artist, comment, creation_time, title", True),
        ("flv", None, True),
    ],
)
def test_what_a_container_does_not_hold_is_named(tmp_path, into, missing, chapters, way):
    warnings = way(source(tmp_path / "in.mp4"), tmp_path / f"out.{into}")
    assert any(f"tags {missing}:" in line for line in warnings) == (missing is not None)
    assert any("chapters: 2" in line for line in warnings) == chapters


def test_tags_that_only_one_container_knows_are_named(tmp_path):
    warnings = copy(source(tmp_path / "in.mkv", texts={"title": "A", "mood": "blue"}), tmp_path / "out.mp4")
    assert warnings == ["mp4 does not hold the tags MOOD: they are not copied"]


def test_images_hold_none_and_the_writer_says_so(tmp_path):
    assert "title" in copy(source(tmp_path / "in.mkv"), tmp_path / "out")[0]


def test_tags_that_ogg_keeps_with_its_tracks_are_found(tmp_path):
    copy(source(tmp_path / "in.ogv", "libvpx"), tmp_path / "out.mkv")
    assert held(tmp_path / "out.mkv")[0]["artist"] == "Someone"


def test_chapters_move_with_the_picture(tmp_path):
    copy(source(tmp_path / "late.mkv", start=50), tmp_path / "out.mkv")
    with VideoReader(tmp_path / "late.mkv") as reader, VideoReader(tmp_path / "out.mkv") as result:
        assert (reader.tracks.origin, result.tracks.origin) == (2, 0)
    assert held(tmp_path / "out.mkv")[1] == [(0, 0.4, "One"), (0.4, 1, "Two")]
