"""What a file states and does not hold is named; what is whole raises no alarm."""

from __future__ import annotations

import re
from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr.video import VideoReader

FRAMES = 50


def write(path, codec, *, times=None):
    """A clip of moving stripes, with B-frames where the codec has them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec == "mpeg4":
            stream.codec_context.max_b_frames = 2
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES):
            stripes = (np.arange(64)[None] + 5 * number) % 32 * 8 + np.arange(48)[:, None] % 7
            frame = av.VideoFrame.from_ndarray(np.repeat(stripes[..., None], 3, 2).astype(np.uint8), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path):
    with VideoReader(path) as reader:
        return [frame.time for frame in reader], reader.warnings


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "mjpeg", "ffv1"])
def test_frames_of_avi_come_one_after_the_other_from_the_start(tmp_path, codec):
    path = write(tmp_path / "a.avi", codec)
    times, warnings = read(path)
    assert times == [Fraction(number, 25) for number in range(FRAMES)] and warnings == []
    with VideoReader(path) as reader:
        assert reader.tracks.origin == 0


@pytest.mark.parametrize(
    ("ending", "codec"), [("mkv", "libx264"), ("mkv", "ffv1"), ("mp4", "libx264"), ("webm", "libvpx-vp9")]
)
def test_whole_files_raise_no_alarm_whatever_their_pauses(tmp_path, ending, codec):
    times = [number / 25 + 3 * (number // 10) for number in range(FRAMES)]
    assert read(write(tmp_path / f"a.{ending}", codec))[1] == []
    if ending == "mkv":
        assert read(write(tmp_path / "b.mkv", codec, times=times))[1] == []


def missing(warnings):
    found = [re.search(r"is damaged: (\d+) of its (\d+) frames", warning) for warning in warnings]
    return next((int(match[1]), int(match[2])) for match in found if match)


def ends(path):
    """Where each packet ends in a file, in bytes."""
    content = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux() if packet.size]
    return [content.find(packet) + len(packet) for packet in packets]


@pytest.mark.parametrize("codec", ["mjpeg", "ffv1"])
def test_a_truncated_avi_says_how_many_frames_are_missing(tmp_path, codec):
    path = write(tmp_path / "a.avi", codec)
    path.write_bytes(path.read_bytes()[: ends(path)[30]])
    times, warnings = read(path)
    assert 20 < len(times) < FRAMES
    assert missing(warnings) == (FRAMES - len(times), FRAMES)


def test_matroska_with_a_hole_says_how_many_frames_are_missing(tmp_path):
    path = write(tmp_path / "a.mkv", "ffv1")
    content, places = path.read_bytes(), ends(path)
    hole = places[29] - places[9]
    void = b"\xec\x01" + (hole - 9).to_bytes(7, "big") + bytes(hole - 9)  # an element that says nothing
    path.write_bytes(content[: places[9]] + void + content[places[29] :])
    times, warnings = read(path)
    assert missing(warnings) == (20, FRAMES) and len(times) == FRAMES - 20
