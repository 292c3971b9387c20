"""What a file is by its content, and why it is left out before anything of it is decoded whole."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from flashvsr.curate.rows import Row
from flashvsr.curate.stages.probe import probe
from flashvsr.curate.stages.scenes import cut
from tests.curate.footage import RULES, pan, texture, weave, write_video


def looked_at(path):
    return probe(Row(str(path), path.name), RULES, frozenset())


def why(path):
    row = looked_at(path)
    return row.stage, row.reason


def write_slowly(path, rate, times=None, pixels="yuv420p", codec="libx264", **settings):
    """Frames at a rate, or at times in 1/1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=settings)
        stream.height, stream.width, stream.pix_fmt = 144, 192, pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pan(1, len(times) if times else 20)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = times[number] if times else round(1000 * number / rate)
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_good_video_is_described_and_may_be_copied(tmp_path):
    row = looked_at(write_video(tmp_path / "a.mp4", pan(1, 50)))
    assert (row.stage, row.kind, row.size, row.fps, row.copyable, row.box) == (
        None,
        "video",
        (144, 192),
        "25",
        True,
        None,
    )
    assert row.scores["seconds"] == 2.0 and row.scores["frame_rate"] == 25 and row.scores["combing"] < 1


def test_a_low_frame_rate_is_rejected(tmp_path):
    assert why(write_slowly(tmp_path / "a.mp4", 5)) == ("probe", "frame_rate 5 < 10/s")


def test_a_file_without_timestamps_is_rejected_with_the_way_out(tmp_path):
    write_video(tmp_path / "a.264", pan(1, 50), format="h264")
    assert why(tmp_path / "a.264") == ("probe", "has no timestamps: put it into a container such as mp4 first")


def test_pixels_that_are_not_square_are_rejected(tmp_path):
    write_video(tmp_path / "a.mp4", pan(1, 50), **{"x264-params": ":sar=4/3"})
    assert why(tmp_path / "a.mp4") == ("probe", "pixels are not square (4/3)")


def test_interlaced_pictures_are_found_by_their_look_when_nothing_says_so(tmp_path):
    stage, reason = why(write_video(tmp_path / "a.mp4", weave(pan(9, 60, speed=5))))
    assert stage == "probe" and reason.startswith("combing ") and reason.endswith("> 1.1 ratio")


@pytest.mark.parametrize(("pixels", "codec"), [("yuv420p10le", "libx265"), ("yuv444p", "libx264")])
def test_what_training_cannot_read_as_it_is_is_not_copied(tmp_path, pixels, codec):
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    row = looked_at(write_slowly(tmp_path / "a.mp4", 10, pixels=pixels, codec=codec, **quiet))
    assert (row.stage, row.copyable) == (None, False)


def test_a_changing_frame_rate_is_kept_but_not_copied(tmp_path):
    times = [40 * number + (20 if number % 5 == 0 else 0) for number in range(50)]
    row = looked_at(write_slowly(tmp_path / "a.mp4", 25, times=times))
    assert row.copyable
    segments = cut(row, RULES)
    assert sum(one.frames for one in segments) == 50
    assert not any(one.copyable for one in segments)


def test_a_photograph_is_upright_and_its_shorter_side_counts(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(texture(1, 200, 300)).save(tmp_path / "a.jpg", exif=turned)
    row = looked_at(tmp_path / "a.jpg")
    assert (row.kind, row.size, row.scores) == ("photo", (300, 200), {"photo_short_side": 200})


def test_pictures_that_are_no_photographs_are_rejected_by_name(tmp_path):
    frames = [Image.fromarray(texture(seed, 120, 160)) for seed in (1, 2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert why(tmp_path / "a.png") == ("probe", "an animation, not a photograph")
    Image.fromarray(np.full((120, 160), 40000, np.uint16)).save(tmp_path / "b.png")
    assert why(tmp_path / "b.png") == ("probe", "pixels of mode I;16, not of 8 bits")
    whole = tmp_path / "c.jpg"
    frames[0].save(whole)
    whole.write_bytes(whole.read_bytes()[:900])
    stage, reason = why(whole)
    assert stage == "probe" and reason.startswith("damaged: ")


def test_a_file_that_was_measured_before_is_not_opened_again(tmp_path):
    path = write_video(tmp_path / "a.mp4", pan(1, 50))
    again = probe(Row(str(path), "a.mp4"), RULES, frozenset([looked_at(path).sha256]))
    assert again.known and again.size == (0, 0)
