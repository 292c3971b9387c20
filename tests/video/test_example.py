from __future__ import annotations

from fractions import Fraction

import torch

from flashvsr.video import VideoReader


def test_the_example_says_what_it_is():
    with VideoReader("example:") as reader:
        assert (reader.info.width, reader.info.height, reader.info.frames) == (320, 180, 36)
        assert reader.info.frame_rate == 24
        assert not reader.warnings


def test_the_example_is_the_same_on_every_run_and_can_be_entered_in_the_middle():
    with VideoReader("example:", skip=32) as reader:
        before = list(reader)
    with VideoReader("example:", skip=34) as reader:
        tail = list(reader)
    assert [frame.time for frame in tail] == [Fraction(34, 24), Fraction(35, 24)]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(before[2:], tail, strict=True))
    assert tail[0].pixels.dtype == torch.uint8
    assert tail[0].pixels.shape == (3, 180, 320)
    moved = (before[0].pixels.float() - before[1].pixels.float()).abs().mean()
    assert 0.5 < moved < 20  # the camera moves, and does not jump


def test_the_example_holds_edges_texture_and_dark_and_bright_parts():
    with VideoReader("example:", skip=35) as reader:
        (frame,) = reader
    luma = frame.pixels.float().mean(0)
    assert luma.min() < 30
    assert luma.max() > 235
    assert luma.diff(dim=1).abs().mean() > 4
    assert (luma.diff(dim=1).abs() > 80).sum() > 200
