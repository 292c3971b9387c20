"""Frames of a part of a file, in containers whose index is not exact."""

from __future__ import annotations

import pytest

from flashvsr.curate.rows import Row
from flashvsr.curate.stages.measure import measure
from flashvsr.curate.stages.probe import probe
from flashvsr.curate.stages.scenes import cut
from flashvsr.curate.stages.spans import frames_from, open_picture
from tests.curate.footage import RULES, pan, write_video


@pytest.fixture(scope="module", params=[("mp4", "12"), ("matroska", "50"), ("mpegts", "100"), ("mpegts", "12")])
def file(request, tmp_path_factory):
    """Two seconds in a container, with key frames so far apart."""
    container, key = request.param
    return write_video(tmp_path_factory.mktemp("spans") / "a.media", pan(1, 50), key=int(key), format=container, bf="3")


def times_of(file):
    with open_picture(str(file)) as (container, stream):
        return [frame.pts for frame in container.decode(stream)]


def test_frames_from_any_time_are_those_of_decoding_everything(file):
    whole = times_of(file)
    assert len(whole) == 50
    with open_picture(str(file)) as (container, stream):
        for number in (0, 1, 2, 11, 12, 30, 49):
            assert [frame.pts for frame in frames_from(container, stream, whole[number])] == whole[number:]


def test_every_segment_can_be_measured(file):
    segments = cut(probe(Row(str(file), "a"), RULES, frozenset()), RULES)
    assert [segment.stage for segment in segments] == [None, None]
    assert [measure(segment, RULES).reason for segment in segments] == [None, None]
