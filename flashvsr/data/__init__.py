"""Training samples: clips and photographs in shards become batches of LR and HR clips.

* ``make_shards``, ``write_index``, ``ShardIndex``: shards, written and read; ``flashvsr.data.lit`` batches them
* ``Degradation``, ``BatchDegradation``: sharp clips become low-resolution clips with the faults of real video
* ``CameraMotion``, ``animate``: a photograph becomes a clip
"""

from flashvsr.data.camera_motion import CameraMotion, animate
from flashvsr.data.degrade import BatchDegradation, Degradation
from flashvsr.data.shard_index import write_index
from flashvsr.data.shard_writer import ShardRules, make_shards
from flashvsr.data.shards import ShardIndex

__all__ = [
    "BatchDegradation",
    "CameraMotion",
    "Degradation",
    "ShardIndex",
    "ShardRules",
    "animate",
    "make_shards",
    "write_index",
]
