import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from flashvsr.data.clips import PhotoCache, decode_clip, reflect_in_time
from flashvsr.data.shards import ShardIndex
from flashvsr.video import VideoError


@pytest.fixture
def longest(shards):
    index = ShardIndex(shards)
    return index.read(max(index.entries, key=lambda entry: entry.frames))


@pytest.mark.parametrize("start", [0, 1, 11, 12, 13, 25])
def test_seeking_gives_the_frames_of_decoding_everything(longest, start):
    whole = decode_clip(longest, 0, 30, (0, 0), (96, 128))
    part = decode_clip(longest, start, 4, (0, 0), (96, 128))
    assert torch.equal(part, whole[start : start + 4])


def test_frames_that_are_stored_after_a_later_key_frame_are_found():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"preset": "ultrafast", "x265-params": "log-level=none:bframes=4:keyint=20:min-keyint=20:open-gop=1"}
        stream = container.add_stream("libx265", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number, 1).copy(), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = decode_clip(buffer.getvalue(), 0, 50, (0, 0), (64, 96))
    for start in range(1, 50):
        assert torch.equal(decode_clip(buffer.getvalue(), start, 1, (0, 0), (64, 96)), whole[start : start + 1]), start


def test_a_crop_is_that_part_of_the_whole(longest):
    whole = decode_clip(longest, 3, 2, (0, 0), (96, 128))
    part = decode_clip(longest, 3, 2, (10, 21), (48, 64))
    cut = whole[:, :, 10:58, 20:84]
    inner = (slice(None), slice(None), slice(4, -4), slice(4, -4))  # colour at the rim is interpolated otherwise
    assert torch.equal(part[inner], cut[inner])


def test_a_clip_that_ends_before_is_shorter_and_one_that_never_starts_is_an_error(longest):
    assert decode_clip(longest, 28, 9, (0, 0), (96, 128)).shape[0] == 2
    with pytest.raises(VideoError, match="no frame 40"):
        decode_clip(longest, 40, 9, (0, 0), (96, 128))


@pytest.mark.parametrize("spoil", [lambda media: b"no video", lambda media: media[: len(media) // 3]])
def test_damaged_videos_are_errors(longest, spoil):
    with pytest.raises(VideoError, match="cannot decode"):
        decode_clip(spoil(longest), 20, 9, (0, 0), (96, 128))


def test_time_is_reflected_at_both_ends():
    clip = torch.arange(4)
    assert reflect_in_time(clip, 9).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert reflect_in_time(clip, 3).tolist() == [0, 1, 2]
    assert reflect_in_time(clip[:1], 3).tolist() == [0, 0, 0]


def test_the_cache_keeps_photographs_up_to_its_memory(shards):
    index = ShardIndex(shards)
    photos = [entry for entry in index.entries if entry.kind == "image"]
    cache, reads = PhotoCache(1), []
    for entry in (photos[0], photos[0], photos[1]):
        cache.get(entry, lambda entry=entry: reads.append(entry) or index.read(entry))
    assert reads == photos[:2]
    nothing = PhotoCache(0)
    for _ in range(2):
        nothing.get(photos[0], lambda: reads.append(photos[0]) or index.read(photos[0]))
    assert len(reads) == 4
