"""Timecodes are carried over, and metadata that describes other pixels is named when it is dropped."""

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr import upscale_file
from flashvsr.upscale import ClipOptions
from flashvsr.video import VideoReader
from flashvsr.video.tags import Tags
from tests.upscale.standin import StandIn

RATE = Fraction(30000, 1001)
CODE = "01:02:03;04"  # drop frame


def write(path, frames=40):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["timecode"] = CODE
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 3 * number, np.uint8))
            frame.pts, frame.time_base = number, 1 / RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def timecode(path):
    with av.open(str(path)) as container:
        return Tags.read(container, container.streams.video[0]).picture.get("timecode")


@pytest.mark.parametrize("segment_seconds", [0.5, None])
@pytest.mark.parametrize("ending", ["mov", "mp4", "mkv"])
def test_the_timecode_is_kept_without_a_word(tmp_path, ending, segment_seconds):
    source, output = write(tmp_path / "in.mov"), tmp_path / f"out.{ending}"
    result = upscale_file(source, output, model=StandIn(), scale=1, segment_seconds=segment_seconds, quiet=True)
    assert timecode(output) == CODE
    assert result.warnings == []


def test_a_timecode_that_is_lost_is_said(tmp_path):
    source = write(tmp_path / "in.mov")
    result = upscale_file(source, tmp_path / "out.avi", model=StandIn(), scale=1, quiet=True)
    assert result.warnings == [f"avi does not hold the timecode {CODE}: it is not copied"]
    part = ClipOptions(start=Fraction(1, 2))
    result = upscale_file(source, tmp_path / "out.mov", model=StandIn(), scale=1, clip=part, quiet=True)
    assert "its timecode is not copied" in result.warnings[0]
    assert timecode(tmp_path / "out.mov") is None


def dynamic_hdr() -> bytes:
    """A NAL unit of HEVC with supplemental information: HDR10+ of one window.

    Reference:
        SMPTE ST 2094-40 in ITU-T T.35; FFmpeg reads it so.
    """
    fields = [(1, 2), (400, 27), (0, 1), *[(1000, 17)] * 4, (0, 4), (0, 10), (0, 1), (0, 1), (0, 1)]
    written = "".join(format(value, f"0{count}b") for value, count in fields)
    written += "0" * (-len(written) % 8)
    payload = bytes([0xB5, 0, 0x3C, 0, 1, 4, 1]) + int(written, 2).to_bytes(len(written) // 8)
    unit = bytes([39 << 1, 1, 4, len(payload)]) + payload + b"\x80"
    return b"\0\0\0\1" + unit.replace(b"\0\0", b"\0\0\3")


def test_dynamic_hdr_metadata_that_is_dropped_is_said(tmp_path):
    path = tmp_path / "plain.hevc"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=25, options={"x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    units = path.read_bytes().split(b"\0\0\1")
    slices = [number for number, unit in enumerate(units) if unit and unit[0] >> 1 & 63 < 32 and number]
    units[slices[0] - 1] += dynamic_hdr()
    (tmp_path / "plus.hevc").write_bytes(b"\0\0\1".join(units))
    for name, count in (("plain.hevc", 0), ("plus.hevc", 1)):
        with VideoReader(tmp_path / name, fps=Fraction(25)) as reader:
            assert len([line for line in reader.warnings if "HDR10+ metadata is not copied" in line]) == count
