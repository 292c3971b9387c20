"""Pixels that are not square stay so, in every container that can say it; the others say that they cannot."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

from flashvsr.video import SEGMENT_SUFFIX, VideoInfo, VideoReader, VideoWriter, join_segments

ASPECT = Fraction(16, 11)
INFO = VideoInfo(64, 48, Fraction(25), Fraction(1, 25), pixel_aspect=ASPECT)
KEPT = {
    "mp4": ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4"),
    "mov": ("libx264", "png"),
    "mkv": ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1"),
    "webm": ("libvpx-vp9", "libsvtav1"),
    "ts": ("libx264", "libx265"),
    "avi": ("libx264", "mpeg4"),
}
LOST = {"avi": ("ffv1", "utvideo"), "ts": ("mpeg2video",), "y4m": ("rawvideo",), "flv": ("libvpx-vp9",)}


def pairs(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(ending, codec) for ending, codecs in table.items() for codec in codecs]


def write(target: str | Path, codec: str, picture, info: VideoInfo = INFO, **options) -> list[str]:
    with VideoWriter(target, width=64, height=48, info=info, codec=codec, **options) as writer:
        for number in range(3):
            writer.write(picture(number), Fraction(number, 25))
    return writer.warnings


def join(target: Path, codec: str, picture, source: Path | None) -> list[str]:
    write(target.parent / f"1{SEGMENT_SUFFIX}", codec, picture)
    return join_segments([target.parent / f"1{SEGMENT_SUFFIX}"], target, source=source)


def aspect_of(path: Path) -> Fraction:
    with VideoReader(path) as reader:
        assert len(list(reader)) == 3
        return reader.info.pixel_aspect


@pytest.mark.parametrize(("ending", "codec"), pairs(KEPT))
def test_the_shape_is_kept_when_written_at_once(tmp_path, picture, ending, codec):
    assert write(tmp_path / f"a.{ending}", codec, picture) == []
    assert aspect_of(tmp_path / f"a.{ending}") == pytest.approx(ASPECT, rel=0.01)


@pytest.mark.parametrize(("ending", "codec"), pairs(KEPT))
def test_the_shape_is_kept_when_segments_are_joined(tmp_path, picture, ending, codec):
    source = tmp_path / "source.mp4"
    write(source, "libx264", picture)
    assert join(tmp_path / f"a.{ending}", codec, picture, source) == []
    assert aspect_of(tmp_path / f"a.{ending}") == pytest.approx(ASPECT, rel=0.01)


@pytest.mark.parametrize(("ending", "codec"), pairs(LOST))
def test_a_shape_that_is_lost_is_named(tmp_path, picture, ending, codec):
    assert any("16:11" in line for line in write(tmp_path / f"a.{ending}", codec, picture))
    assert write(tmp_path / f"b.{ending}", codec, picture, replace(INFO, pixel_aspect=Fraction(1))) == []


def test_matroska_keeps_the_title_of_its_track_and_a_right_checksum(tmp_path, picture):
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = ASPECT
        stream.metadata["title"] = "Main picture"
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture(number).permute(1, 2, 0).contiguous().numpy())
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(tmp_path / "in.mkv") as reader:
        write(tmp_path / "out.mkv", "ffv1", picture, reader.info, copy_tracks_from=reader)
    with av.open(str(tmp_path / "out.mkv"), options={"err_detect": "crccheck+explode"}) as container:
        stream = container.streams.video[0]
        assert stream.metadata["title"] == "Main picture"
        assert stream.sample_aspect_ratio == pytest.approx(ASPECT, rel=0.01)
        assert sum(1 for _ in container.decode(stream)) == 3


def test_tall_pixels_are_kept_too(tmp_path, picture):
    write(tmp_path / "a.mkv", "ffv1", picture, replace(INFO, pixel_aspect=Fraction(8, 9)))
    assert aspect_of(tmp_path / "a.mkv") == pytest.approx(Fraction(8, 9), rel=0.01)


def test_the_reported_file_keeps_its_shape(tmp_path, picture):
    folder = os.environ.get("FLASHVSR_DATA")
    if not folder or not (path := Path(folder).parent / "faults" / "sar3.mp4").exists():
        pytest.skip("sar3.mp4 is not here: pixels of a file as a user sent it were not checked")
    with (
        VideoReader(path) as reader,
        VideoWriter(tmp_path / "a.webm", width=64, height=36, info=reader.info, copy_tracks_from=reader) as writer,
    ):
        for frame in reader:
            writer.write(frame.pixels, frame.time)
    assert aspect_of(tmp_path / "a.webm") == pytest.approx(ASPECT, rel=0.01)
