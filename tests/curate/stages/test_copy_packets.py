from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import pytest
import torch

from flashvsr.curate.rows import Row
from flashvsr.curate.stages.copy_packets import _decoding_times, copy_packets
from flashvsr.curate.stages.probe import probe
from flashvsr.curate.stages.scenes import cut
from flashvsr.data.clips import decode_clip
from tests.curate.footage import RULES, pan, write_video

SIZE = (144, 192)


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    """Key frames every 25 frames, B-frames between; segments of 20 frames."""
    path = write_video(tmp_path_factory.mktemp("clips") / "a.mp4", pan(1, 100), key=25, bf="3")
    rows = cut(probe(Row(str(path), "a.mp4"), RULES, frozenset()), RULES)
    assert len(rows) == 4
    assert all(row.copyable for row in rows)
    return rows


def span(rows, first, last):
    """From frame to frame of 25 a second."""
    ticks = (rows[-1].end - rows[0].start) // 100
    return replace(rows[0], start=ticks * first, end=ticks * last, frames=last - first), ticks


def whole(rows):
    return decode_clip(Path(rows[0].path).read_bytes(), 0, 100, (0, 0), SIZE)


@pytest.mark.parametrize(("first", "last"), [(0, 100), (0, 50), (25, 75), (50, 100)])
def test_between_key_frames_every_frame_is_copied_exactly(segments, first, last):
    row, ticks = span(segments, first, last)
    media, start, end, frames = copy_packets(row, 0.2)
    assert start == ticks * first
    assert last - first - 3 <= frames <= last - first, "at most a group of B-frames is lost at the end"
    assert end == start + ticks * frames
    clip = decode_clip(media, 0, 100, (0, 0), SIZE)
    assert torch.equal(clip, whole(segments)[first : first + frames])


def test_a_clip_begins_at_the_next_key_frame_if_that_costs_little(segments):
    row, ticks = span(segments, 20, 75)
    assert copy_packets(row, 0.5)[1] == 25 * ticks
    assert copy_packets(row, 0.1) is None


def test_no_frame_of_what_comes_after_is_in_a_copy(segments):
    for last in range(60, 75):
        row, ticks = span(segments, 25, last)
        media, start, end, frames = copy_packets(row, 1.0)
        assert start + frames * ticks == end <= row.end
        with av.open(io.BytesIO(media)) as container:
            assert sum(1 for _ in container.decode(video=0)) == frames


def test_matroska_is_copied_too(tmp_path):
    path = write_video(tmp_path / "a.mkv", pan(1, 50), key=25, format="matroska")
    rows = cut(probe(Row(str(path), "a.mkv"), RULES, frozenset()), RULES)
    media, _, _, frames = copy_packets(replace(rows[0], end=rows[-1].end, frames=50), 0.2)
    clip = decode_clip(media, 0, 50, (0, 0), SIZE)
    assert clip.shape[0] == frames >= 47
    assert torch.equal(clip, decode_clip(path.read_bytes(), 0, frames, (0, 0), SIZE))


@pytest.mark.parametrize("decoded", [[0, 1, 2, 3], [0, 4, 2, 1, 3, 8, 6, 5, 7], [0, 1, 4, 2, 3], [0]])
def test_decoding_times_grow_and_none_is_after_its_frame_is_shown(decoded):
    times = [40 * number for number in decoded]
    ahead = _decoding_times(times)
    assert all(first < second for first, second in pairwise(ahead))
    assert all(time <= shown for time, shown in zip(ahead, times, strict=True))
    assert any(time == shown for time, shown in zip(ahead, times, strict=True)), "no later than they must be"
