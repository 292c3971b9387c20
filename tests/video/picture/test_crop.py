"""What codec and container hide of a picture stays hidden."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext

from flashvsr.curate.stages.spans import Pixels, frames_from, open_picture
from flashvsr.data.clips import decode_clip
from flashvsr.video import VideoReader
from flashvsr.video.info import Colors
from flashvsr.video.picture.crop import Crop, container_crop
from flashvsr.video.picture.pixels import tag

CROP = Crop(top=2, bottom=6, left=8, right=4)
NESTED = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1")
HEADER = {b"stsd": 8, b"avc1": 78}  # bytes between the head of such a box and the boxes in it


def stripes() -> np.ndarray:
    """Every column and every row differs, and what is hidden is white."""
    picture = np.full((48, 64, 3), 255, np.uint8)
    shown = picture[CROP.top : 48 - CROP.bottom, CROP.left : 64 - CROP.right]
    shown[:] = (40 + np.arange(shown.shape[1])[None, :, None] * 2).astype(np.uint8)
    return picture


def write(
    path: Path,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    filter: str | None = None,
    **container_options: str,
) -> Path:
    with av.open(str(path), "w", container_options=container_options) as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "1", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        tag(stream.codec_context, Colors(1, 1, 1, 1))
        filtered = BitStreamFilterContext(filter, stream) if filter else None
        for number in (0, 1, 2, None):
            frame = None
            if number is not None:
                frame = av.VideoFrame.from_ndarray(stripes(), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in stream.encode(frame):
                for kept in [packet] if filtered is None else filtered.filter(packet):
                    container.mux(kept)
    return path


def write_matroska_crop(path: Path) -> Path:
    """Matroska whose colour settings (19 bytes) are replaced with PixelCrop."""
    data = write(path, write_crc32="0").read_bytes()
    at = data.index(b"\x55\xb0")
    size = 3 + data[at + 2] - 0x80
    crop = b"".join(
        name + b"\x81" + bytes([edge])
        for name, edge in zip((b"\x54\xbb", b"\x54\xaa", b"\x54\xcc", b"\x54\xdd"), CROP, strict=True)
    )
    filler = size - len(crop) - 2
    assert filler >= 0
    path.write_bytes(data[:at] + crop + b"\xec" + bytes([0x80 + filler]) + bytes(filler) + data[at + size :])
    return path


def write_clap(path: Path) -> Path:
    """MP4 with a clean aperture."""
    width, height = CROP.size(64, 48)
    across, down = CROP.left - CROP.right, CROP.top - CROP.bottom  # twice the way from the middle
    clap = struct.pack(">I4sIIIIiIiI", 40, b"clap", width, 1, height, 1, across, 2, down, 2)
    return put_into_sample_entry(write(path), clap)


def put_into_sample_entry(path: Path, box: bytes) -> Path:
    """Add a box to the description of the picture of an MP4, and grow the sizes around it."""
    data = bytearray(path.read_bytes())
    assert data.index(b"moov") > data.index(b"mdat")  # so that no offset changes
    at, end = 0, len(data)
    for wanted in NESTED:
        while data[at + 4 : at + 8] != wanted:
            at += int.from_bytes(data[at : at + 4])
        size = int.from_bytes(data[at : at + 4])
        data[at : at + 4] = (size + len(box)).to_bytes(4)
        end = at + size
        at += 8 + HEADER.get(wanted, 0)
    data[end:end] = box
    path.write_bytes(data)
    return path


def assert_only_the_shown_part(pixels) -> None:
    width, height = CROP.size(64, 48)
    expected = stripes()[CROP.top : 48 - CROP.bottom, CROP.left : 64 - CROP.right].transpose(2, 0, 1)
    assert tuple(pixels.shape) == (3, height, width)
    assert np.abs(pixels.numpy().astype(int) - expected)[:, 2:-2, 2:-2].max() < 12  # edges: compression of white


X265 = {"x265-params": "log-level=none"}
X264 = {"x264-params": "crop-rect=8,2,4,6"}  # left, top, right, bottom
CROP_265 = "hevc_metadata=crop_left=8:crop_top=2:crop_right=4:crop_bottom=6"
WAYS = {
    "codec264.mp4": lambda path: write(path, options=X264),
    "codec264.mkv": lambda path: write(path, options=X264),
    "codec264.ts": lambda path: write(path, options=X264),
    "codec264.h264": lambda path: write(path, options=X264),
    "codec265.hevc": lambda path: write(path, "libx265", X265, filter=CROP_265),
    "codec265.ts": lambda path: write(path, "libx265", X265, filter=CROP_265),
    "container.mkv": write_matroska_crop,
    "container.mp4": write_clap,
    "container.mov": write_clap,
}


@pytest.mark.parametrize("name", WAYS)
def test_hidden_rows_and_columns_do_not_appear(tmp_path, name):
    with VideoReader(WAYS[name](tmp_path / name)) as reader:
        assert (reader.info.width, reader.info.height) == CROP.size(64, 48)
        for frame in reader:
            assert_only_the_shown_part(frame.pixels)


@pytest.mark.parametrize("name", [name for name in WAYS if name.endswith(("mp4", "mkv", "mov", "ts"))])
def test_curation_sees_only_what_is_shown(tmp_path, name):
    with open_picture(str(WAYS[name](tmp_path / name))) as (container, stream):
        pixels = Pixels(crop=container_crop(stream))
        assert_only_the_shown_part(pixels(next(frames_from(container, stream, stream.start_time or 0))))


def test_clips_of_shards_are_cropped_by_their_codec(tmp_path):
    media = write(tmp_path / "a.mp4", options=X264).read_bytes()
    width, height = CROP.size(64, 48)
    assert_only_the_shown_part(decode_clip(media, 0, 1, (0, 0), (height, width))[0])


def test_a_picture_without_cropping_is_whole(tmp_path):
    for ending in ("mp4", "mkv", "ts", "avi"):
        with VideoReader(write(tmp_path / f"a.{ending}")) as reader:
            assert (reader.info.width, reader.info.height) == (64, 48)


@pytest.mark.parametrize(
    ("name", "size"), [("crop264.mp4", (58, 38)), ("pixelcrop.mkv", (48, 36)), ("clap.mov", (48, 36))]
)
def test_reported_files_show_what_players_show(name, size):
    folder = os.environ.get("FLASHVSR_DATA")
    if not folder or not (path := Path(folder).parent / "faults" / name).exists():
        pytest.skip(f"{name} is not here: cropping of a file as a user sent it was not checked")
    with VideoReader(path) as reader:
        assert all(tuple(frame.pixels.shape[1:]) == size[::-1] for frame in reader)
