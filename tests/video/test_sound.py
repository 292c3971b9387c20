"""Sound is in the result, or a line says that it is not."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from flashvsr.video import VideoError, VideoInfo, VideoReader, VideoWriter

SOUNDS = ("pcm_s16le", "pcm_s24le", "pcm_mulaw", "flac", "alac", "wmav2", "libopus", "aac", "mp2", "ac3", "eac3")
HELD_BY_TS = ("libopus", "aac", "mp2", "ac3", "eac3")


def source(path, codec):
    with av.open(str(path), "w", options={"strict": "-2"}) as container:
        video, sound = container.add_stream("libx264", rate=25), container.add_stream(codec, rate=48000)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        sound.codec_context.layout, sound.codec_context.bit_rate = "stereo", 128000
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = (np.sin(np.arange(19200) * 0.05) * 8000).astype(np.int16).repeat(2)[None]
        samples = av.AudioFrame.from_ndarray(wave, format="s16", layout="stereo")
        samples.sample_rate, samples.pts, samples.time_base = 48000, 0, Fraction(1, 48000)
        container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
    return path


def seconds_of_sound(path):
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return 0.0
        return sum(frame.samples for frame in container.decode(audio=0)) / 48000


@pytest.mark.parametrize("ending", ["ts", "m2ts", "mp4", "mov", "mkv", "avi", "nut", "flv"])
@pytest.mark.parametrize("codec", SOUNDS)
def test_sound_can_be_heard_or_is_named_as_lost(tmp_path, ending, codec):
    path = source(tmp_path / ("in.avi" if codec in ("wmav2", "pcm_mulaw") else "in.mkv"), codec)
    with (
        VideoReader(path) as reader,
        VideoWriter(
            tmp_path / f"out.{ending}", width=64, height=48, info=reader.info, copy_tracks_from=reader
        ) as writer,
    ):
        for frame in reader:
            writer.write(frame.pixels, frame.time)
    heard = seconds_of_sound(tmp_path / f"out.{ending}")
    if any(line.startswith("audio track 1") for line in writer.warnings):
        assert heard == 0
        assert "ts" not in ending or codec not in HELD_BY_TS
    else:
        assert heard == pytest.approx(seconds_of_sound(path), abs=0.03)


def test_a_picture_that_a_transport_stream_cannot_name_is_refused(tmp_path):
    info = VideoInfo(64, 48, Fraction(25))
    with pytest.raises(VideoError, match="mpegts does not hold ffv1 video"):
        VideoWriter(tmp_path / "a.ts", width=64, height=48, info=info, codec="ffv1")
    assert not list(tmp_path.iterdir())
