"""Video files in and out.

* ``VideoReader``: frames of a file, a pipe, a folder of images or the built-in ``example:`` clip
* ``VideoWriter``: frames into a file, a pipe or a folder of images
* ``join_segments``: closed segments and the source's audio into one file, nothing re-encoded
* ``mark_cuts``: where scenes begin
* ``LiveSource``: a stream from the network or a device; ``is_address`` and ``is_device`` tell one by its name
* ``Trim``: the part of a video that is wanted
* ``VideoInfo``, ``VideoFrame``, ``VideoError``: what passes between them
"""

from flashvsr.video.addresses import is_address, is_device
from flashvsr.video.cuts import REMEMBERED, Marked, mark_cuts
from flashvsr.video.images import (
    PICTURE_SUFFIXES,
    image_name,
    is_image_target,
    is_pattern,
    is_picture,
    numbered_images,
)
from flashvsr.video.info import Colors, Track, VideoError, VideoFrame, VideoInfo
from flashvsr.video.picture.alpha import fill_transparent
from flashvsr.video.read.deinterlace import Deinterlace
from flashvsr.video.read.demux import is_pipe
from flashvsr.video.read.live import LiveSource
from flashvsr.video.reader import VideoReader
from flashvsr.video.trim import WHOLE, Trim
from flashvsr.video.write.remux import join_segments
from flashvsr.video.writer import SEGMENT_SUFFIX, VideoWriter, segment_suffix

__all__ = [
    "PICTURE_SUFFIXES",
    "REMEMBERED",
    "SEGMENT_SUFFIX",
    "WHOLE",
    "Colors",
    "Deinterlace",
    "LiveSource",
    "Marked",
    "Track",
    "Trim",
    "VideoError",
    "VideoFrame",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "fill_transparent",
    "image_name",
    "is_address",
    "is_device",
    "is_image_target",
    "is_pattern",
    "is_picture",
    "is_pipe",
    "join_segments",
    "mark_cuts",
    "numbered_images",
    "segment_suffix",
]
