"""Levels stay what they were, whatever a codec can say about their range."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from flashvsr.video import Colors, VideoInfo, VideoReader, VideoWriter, join_segments, segment_suffix

LEVELS = torch.tensor([0, 16, 64, 128, 200, 235, 255]).repeat_interleave(16)
RAMP = LEVELS[None, None].expand(3, 48, 112).to(torch.uint8).contiguous()
MIDDLES = slice(8, None, 16)
CODECS = [
    ("mov", "prores_ks"),
    ("mkv", "mpeg2video"),
    ("avi", "mpeg4"),
    ("avi", "ffv1"),
    ("avi", "utvideo"),
    ("avi", "rawvideo"),
    ("avi", "mjpeg"),
    ("mkv", "ffv1"),
    ("mp4", "libx264"),
    ("webm", "libvpx-vp9"),
]


def write(path, info, codec):
    with VideoWriter(path, width=112, height=48, info=info, codec=codec, crf=1) as writer:
        for number in range(2):
            writer.write(RAMP, Fraction(number, 25))
    return path


def levels_of(path):
    with VideoReader(path) as reader:
        pixels = next(iter(reader)).pixels
    scale = 1 if pixels.dtype == torch.uint8 else 255
    return pixels[:, 24, MIDDLES].float() * scale


@pytest.mark.parametrize("range_of_source", [1, 2], ids=["limited", "full"])
@pytest.mark.parametrize(("ending", "codec"), CODECS)
def test_full_and_limited_sources_keep_their_levels_in_every_codec(tmp_path, ending, codec, range_of_source):
    info = VideoInfo(112, 48, Fraction(25), Fraction(1, 25), colors=Colors(1, 1, 1, range_of_source))
    source = write(tmp_path / "source.mp4", info, "libx264")
    whole = write(tmp_path / f"whole.{ending}", info, codec)
    segment = write(tmp_path / f"1{segment_suffix(codec)}", info, codec)
    join_segments([segment], tmp_path / f"joined.{ending}", source=source)
    for path in (whole, tmp_path / f"joined.{ending}"):
        assert (levels_of(path) - RAMP[:, 24, MIDDLES].float()).abs().max() < 3


@pytest.mark.parametrize(
    ("ending", "codec", "layout"),
    [
        ("avi", "rawvideo", "gray"),
        ("mov", "tiff", "gray16le"),
        ("mov", "png", "gray"),
        ("mkv", "ffv1", "gray"),
        ("mkv", "ffv1", "gray10le"),
        ("mkv", "ffv1", "gray16le"),
    ],
)
def test_untagged_gray_that_is_stored_as_it_is_keeps_its_levels(tmp_path, ending, codec, layout):
    bits = {"gray": 8, "gray10le": 10, "gray16le": 16}[layout]
    stored = (LEVELS.double() / 255 * (2**bits - 1)).round().numpy().astype(np.uint8 if bits == 8 else np.uint16)
    with av.open(str(tmp_path / f"a.{ending}"), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 112, 48, layout
        frame = av.VideoFrame.from_ndarray(np.tile(stored, (48, 1)), format=layout)
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert (levels_of(tmp_path / f"a.{ending}") - LEVELS[MIDDLES].float()).abs().max() <= 1
