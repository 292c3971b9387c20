"""Video files in and out.

* ``VideoReader``: frames of a file, a pipe, a folder of images or the built-in ``example:`` clip
* ``VideoWriter``: frames into a file, a pipe or a folder of images
* ``join_segments``: closed segments and the source's audio into one file, nothing re-encoded
* ``Degradation``, ``BatchDegradation``: sharp clips become low-resolution clips with the faults of real video
* ``make_shards``, ``ShardIndex``: training shards, written and read; ``flashvsr.data.lit`` makes batches of them
* ``CameraMotion``, ``animate``: a photograph becomes a clip
* ``VideoInfo``, ``VideoFrame``, ``VideoError``: what passes between them
"""

from flashvsr.data.degrade import BatchDegradation, Degradation
from flashvsr.data.images import is_image_target, is_pattern, numbered_images
from flashvsr.data.info import Colors, Track, VideoError, VideoFrame, VideoInfo
from flashvsr.data.motion import CameraMotion, animate
from flashvsr.data.remux import join_segments
from flashvsr.data.shard_writer import ShardRules, make_shards
from flashvsr.data.shards import ShardIndex
from flashvsr.data.video import VideoReader
from flashvsr.data.writer import SEGMENT_SUFFIX, VideoWriter

__all__ = [
    "SEGMENT_SUFFIX",
    "BatchDegradation",
    "CameraMotion",
    "Colors",
    "Degradation",
    "ShardIndex",
    "ShardRules",
    "Track",
    "VideoError",
    "VideoFrame",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "animate",
    "is_image_target",
    "is_pattern",
    "join_segments",
    "make_shards",
    "numbered_images",
]
