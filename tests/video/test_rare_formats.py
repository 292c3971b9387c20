"""Rare formats are read right, or said to lose something."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from flashvsr.curate.stages.spans import Pixels, frames_from, open_picture
from flashvsr.data.clips import decode_clip
from flashvsr.video import VideoError, VideoReader
from flashvsr.video.picture.pixels import ToRGB, frame_colors, resolve_colors
from flashvsr.video.read.demux import Demuxer
from flashvsr.video.read.file_source import FileSource
from flashvsr.video.trim import Trim


def test_sound_that_an_mp4_hides_is_said(tmp_path, write_av):
    path = write_av(tmp_path / "a.mp4")
    with VideoReader(path) as reader:
        assert reader.warnings == []
    data = bytearray(path.read_bytes())
    sound = data.rindex(b"tkhd")
    data[sound + 4 : sound + 8] = struct.pack(">I", 2)  # in the movie, and not enabled
    path.write_bytes(data)
    with VideoReader(path) as reader:
        assert "sound switched off" in reader.warnings[0]


@pytest.mark.parametrize(
    "layout", ["rgb555be", "bgr555be", "rgb565be", "bgr565be", "rgb444be", "bgr444be", "rgb444le", "bgr444le"]
)
def test_colours_of_16_bits_are_right(layout):
    bits = {"565": (5, 6, 5), "555": (5, 5, 5), "444": (4, 4, 4)}[layout[3:6]]
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 1 << count, (16, 32)) for count in bits]
    words = parts[0] << (bits[1] + bits[2]) | parts[1] << bits[2] | parts[2]
    frame = av.VideoFrame(32, 16, layout)
    rows = np.zeros((16, frame.planes[0].line_size), np.uint8)
    rows[:, :64] = words.astype("<u2" if layout.endswith("le") else ">u2").view(np.uint8).reshape(16, 64)
    frame.planes[0].update(rows.tobytes())
    expected = np.stack([part * 255 / ((1 << count) - 1) for part, count in zip(parts, bits, strict=True)])
    pixels = ToRGB(resolve_colors(frame_colors(frame), 32, 16), deep=False)(frame).numpy()
    assert np.abs(pixels - (expected if layout.startswith("rgb") else expected[::-1])).mean() < 1


def test_clips_and_curation_take_untagged_gray_as_the_codec_stores_it(tmp_path):
    path = tmp_path / "gray.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "gray"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((16, 32), 60, np.uint8), format="gray")))
        container.mux(stream.encode(None))
    assert set(decode_clip(path.read_bytes(), 0, 1, (0, 0), (16, 32)).flatten().tolist()) == {60}
    with open_picture(str(path)) as (container, stream):
        codec = stream.codec_context.codec.canonical_name
        frame = next(frames_from(container, stream, stream.start_time or 0))
        assert set(Pixels(codec=codec)(frame).flatten().tolist()) == {60}


@pytest.mark.parametrize(("name", "frames"), [("m3.ogv", 25), ("anim.avif", 30)])
def test_every_frame_of_reported_files_is_read(name, frames):
    folder = os.environ.get("FLASHVSR_DATA")
    if not folder or not (path := Path(folder).parent / "faults" / name).exists():
        pytest.skip(f"{name} is not here: its repeated or hidden frames were not counted")
    with VideoReader(path) as reader:
        assert len(list(reader)) == frames


def animation(path, **options):
    """Five pictures with a hole that moves, lossless, shown for 40, 60, 0, 40 and 200 ms."""
    pictures = []
    for number in range(5):
        pixels = np.full((48, 64, 4), 255, np.uint8)
        pixels[..., 0] = 40 * number
        pixels[:8, 8 * number : 8 * number + 8, 3] = 0
        pictures.append(Image.fromarray(pixels))
    durations = [40, 60, 0, 40, 200]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, lossless=True, **options)
    return path


def test_an_animated_webp_has_its_frames_times_and_opacity(tmp_path):
    with VideoReader(animation(tmp_path / "a.webp")) as reader:
        frames = list(reader)
    assert [frame.time * 1000 for frame in frames] == [0, 40, 100, 200, 240]  # 0 is as long as in browsers
    assert reader.last_duration == Fraction(1, 5)
    assert (reader.info.frames, reader.info.has_alpha, reader.info.frame_rate) == (5, True, Fraction(5000, 440))
    assert [frame.pixels[0, 40, 40].item() for frame in frames] == [0, 40, 80, 120, 160]
    assert [frame.alpha[0, 8 * number].item() for number, frame in enumerate(frames)] == [0.0] * 5
    assert frames[1].alpha[0, 0] == 1


def test_an_animated_webp_is_trimmed_and_entered_in_the_middle(tmp_path):
    trim = Trim(Fraction(1, 10), Fraction(6, 25))
    with VideoReader(animation(tmp_path / "a.webp"), trim=trim, skip=1) as reader:
        ((pixels, time),) = [(frame.pixels, frame.time) for frame in reader]
    assert (pixels[0, 40, 40], time, reader.last_duration) == (120, Fraction(1, 10), Fraction(1, 25))
    with pytest.raises(VideoError, match=r"a.webp ends at 0\.44 s"):
        VideoReader(tmp_path / "a.webp", trim=Trim(Fraction(1)))


def test_a_damaged_animated_webp_is_an_error_that_says_where(tmp_path):
    path = animation(tmp_path / "a.webp")
    path.write_bytes(path.read_bytes()[:-150])
    with pytest.raises(VideoError, match=r"a.webp is damaged or cut off at 0\.\d\d s.*\nwhat comes before"):
        list(VideoReader(path))


def test_an_animated_webp_that_ffmpeg_has_to_read_as_from_a_pipe_is_refused_by_name(tmp_path):
    with pytest.raises(VideoError, match=r"is an animated WebP, which is not read from a pipe\nname its file"):
        FileSource(Demuxer(str(animation(tmp_path / "a.webp"))))
