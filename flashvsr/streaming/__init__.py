"""Run a model over a video of any length and any size, a few frames at a time.

:class:`Stream` owns everything between a person's frames and a model's fixed chunks: upsampling to the target
size, padding in space and time, cropping back, the noise, and saving and resuming. It works on any *system*
that has

* ``geometry``, a :class:`Geometry`: how many frames a chunk takes and yields, and what sizes are legal;
* ``step(lr, noise, state) -> (frames, state)``: `lr` `[1, 3, T, H, W]` in [-1, 1] at the padded target size and
  `noise` `[1, C, t, H/8, W/8]` give `frames` `[1, 3, T', H, W]` in [-1, 1]; state is None at the start.

and optionally

* ``device`` and ``dtype`` of what ``step`` is given (default: CPU, float32), and ``pixel_dtype``, if `lr` has another;
* ``output_device``, where frames come out, if it is another one;
* a parameter ``content`` of ``step``: it then gets the (height, width) in pixels of the top-left part that is not
  padding, for statistics such as colour;
* a parameter ``on_frames`` of ``step``: a function to call with frames `[1, 3, T', H, W]` of a chunk as they come, or
  None; what ``step`` returns beside the state is then ignored;
* ``in_parts``: True to have frames taken that way always, which needs less memory;
* ``load_state(saved)``, which rebuilds the state from what :meth:`Stream.state_dict` kept of it, on the right device
  and without changing or keeping ``saved``. A state may be None, a number, a string, a tensor, dicts, lists and tuples
  of those, or any object with ``state_dict()``.

Reference:
    FlashVSR, https://arxiv.org/abs/2510.12747, section 3 (streaming inference with chunks of 8 frames).
"""

from flashvsr.streaming.clip import upscale
from flashvsr.streaming.frames import Canvas, resize_bicubic
from flashvsr.streaming.geometry import Geometry
from flashvsr.streaming.noise import chunk_noise
from flashvsr.streaming.protocols import FrameStream, StreamingModel, System
from flashvsr.streaming.stream import Stream

__all__ = [
    "Canvas",
    "FrameStream",
    "Geometry",
    "Stream",
    "StreamingModel",
    "System",
    "chunk_noise",
    "resize_bicubic",
    "upscale",
]
