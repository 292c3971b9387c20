"""Video files that are read from their middle."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from flashvsr.video import Trim, VideoReader
from flashvsr.video.read.decode import PictureDecoder

FRAMES = 120
CODECS = {
    "closed.mp4": ("libx264", {"g": "24"}),
    "open.mp4": ("libx264", {"g": "24", "x264-params": "open-gop=1:bframes=5:b-adapt=0:b-pyramid=2:scenecut=0"}),
    "open.mkv": ("libx264", {"g": "24", "x264-params": "open-gop=1:bframes=5:b-adapt=0:b-pyramid=2:scenecut=0"}),
    "refresh.mp4": ("libx264", {"g": "24", "x264-params": "intra-refresh=1"}),
    "hevc.mkv": ("libx265", {"g": "24", "x265-params": "log-level=none:open-gop=1:bframes=4:pools=1"}),
    "one_key.mp4": ("libx264", {"g": "500", "x264-params": "scenecut=0"}),
    "old.mov": ("mpeg4", {"g": "12", "bf": "2"}),
    "short.mkv": ("mjpeg", {}),
    "beats.ts": ("libx264", {"g": "24"}),
    "counts.avi": ("mpeg4", {"g": "12"}),
}


def _write(path: Path, codec: str, options: dict[str, str]) -> Path:
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25, options=options)
        video.height, video.width, video.pix_fmt = 64, 96, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        ground = noise.integers(0, 255, (64, 96, 3), np.uint8)
        for number in range(FRAMES):
            picture = np.roll(ground, 3 * number, 1)
            picture[8:24, 8:24] = 2 * number
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(video.encode(None))
    return path


@pytest.mark.parametrize("name", CODECS)
def test_a_file_read_from_its_middle_gives_the_frames_and_times_of_the_whole(tmp_path, monkeypatch, name):
    source = _write(tmp_path / name, *CODECS[name])
    with VideoReader(source) as reader:
        whole, info = list(reader), reader.info
    packets = []
    decode = PictureDecoder.decode
    monkeypatch.setattr(PictureDecoder, "decode", lambda self, packet: packets.append(packet) or decode(self, packet))
    for number in (1, 24, 47, 48, 49, 71, 96, 110, 119):
        packets.clear()
        with VideoReader(source, begin=whole[number].time, skip=0) as reader:
            assert reader.info == info
            assert reader.enters == (name not in ("beats.ts", "counts.avi"))
            frames = list(reader)
        assert [frame.time for frame in frames] == [frame.time for frame in whole[number:]]
        assert all(torch.equal(one.pixels, other.pixels) for one, other in zip(frames, whole[number:], strict=True))
        assert len(packets) < 100 or number < 110 or name in ("beats.ts", "counts.avi", "one_key.mp4", "refresh.mp4")


def test_the_middle_of_a_part_is_counted_from_its_start(tmp_path):
    source = _write(tmp_path / "in.mp4", *CODECS["open.mp4"])
    trim = Trim(Fraction(31, 50), Fraction(4))
    with VideoReader(source, trim=trim) as reader:
        whole = list(reader)
    with VideoReader(source, trim=trim, begin=Fraction(101, 50), skip=3) as reader:
        frames = list(reader)
    assert [frame.time for frame in frames] == [frame.time for frame in whole if frame.time >= Fraction(101, 50)][3:]
    assert torch.equal(frames[0].pixels, whole[-len(frames)].pixels)


def test_what_is_no_file_has_no_middle(tmp_path):
    with pytest.raises(ValueError, match=r"begin=1 is for video files, which example: is not"):
        VideoReader("example:", begin=Fraction(1))
