"""A look before the long run."""

import numpy as np
import pytest
import torch
from PIL import Image

from flashvsr.app import check_upload, preview
from flashvsr.app.preview import part_of, read_frame
from tests.upscale.standin import StandIn, read_frames, write_clip


@pytest.fixture
def upload(tmp_path):
    return check_upload(write_clip(tmp_path / "clip.mp4", 60), "clip.mp4", most_bytes=1_000_000)


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_one_frame_is_what_the_model_makes_of_that_frame_alone(upload):
    frames, _ = read_frames(upload.path)
    stream = StandIn().stream(height=32, width=48, scale=2, seed=0, state=None)
    stream.push(frames[24:25])
    shown = preview(upload, StandIn(), scale=2, second=1.0)
    assert shown.frames == 1 and shown.video is None
    assert torch.equal(pixels(shown.after), stream.finish()[0])
    assert shown.before.size == shown.after.size == (96, 64)
    assert torch.equal(pixels(read_frame(upload, 1.0)), frames[24])


def test_seconds_begin_where_asked_and_end_with_the_clip(upload, tmp_path):
    told = []
    shown = preview(
        upload, StandIn(), second=2.0, seconds=3.0, video=tmp_path / "p.mp4", progress=lambda *done: told.append(done)
    )
    frames, times = read_frames(shown.video)
    assert shown.frames == len(frames) == 12  # 60 frames at 23.976 per second, from the 48th on
    assert frames.shape[2:] == (128, 192) and float(times[1]) == pytest.approx(1001 / 24000)
    assert told[-1] == (12, 72)


def test_the_left_half_of_the_video_is_before_and_the_right_half_after(tmp_path):
    upload = check_upload(write_clip(tmp_path / "c.mp4", 12), "c.mp4", most_bytes=1_000_000)

    class Dark(StandIn):
        def step(self, lr, noise, state):
            frames, state = super().step(lr, noise, state)
            return torch.full_like(frames, -1.0), state

    shown = preview(upload, Dark(), seconds=0.5, video=tmp_path / "p.mp4")
    frames, _ = read_frames(shown.video)
    assert frames[:, :, :, 110:].float().mean() < 10 < 60 < frames[:, :, :, :80].float().mean()


def test_only_the_part_is_upscaled(upload):
    shown = preview(upload, StandIn(), scale=4, part=(8, 16, 16, 24))
    assert shown.after.size == (96, 64)
    frames, _ = read_frames(upload.path)
    before = Image.fromarray(frames[0, :, 8:24, 16:40].permute(1, 2, 0).numpy())
    assert torch.equal(pixels(shown.before), pixels(before.resize((96, 64), Image.Resampling.BICUBIC)))


def test_a_time_after_the_end_shows_the_last_frame(upload):
    frames, _ = read_frames(upload.path)
    assert torch.equal(pixels(read_frame(upload, 99.0)), frames[-1])


@pytest.mark.parametrize(
    ("size", "part", "point", "expected"),
    [
        ((400, 800), "half", (0.5, 0.5), (100, 200, 200, 400)),
        ((400, 800), "quarter", (0.0, 1.0), (300, 0, 100, 200)),
        ((400, 800), "whole", (0.9, 0.1), (0, 0, 400, 800)),
        ((100, 50), "quarter", (1.0, 1.0), (36, 0, 64, 50)),
    ],
)
def test_a_part_lies_inside_the_picture(size, part, point, expected):
    assert part_of(*size, part, *point) == expected


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="expected one of whole, half, quarter"):
        part_of(100, 100, "tiny")
