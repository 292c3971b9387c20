"""File to file: a video is decoded, streamed through a model and encoded, all at once; and many files in one go.

* ``upscale_file``: the whole job, as one function
* ``ClipOptions``, ``LoadOptions``, ``EncodeOptions``: which part is upscaled and to what size, how the model is loaded
  and the output encoded
* ``UpscaleResult``: what it returns
* ``upscale_files``: the files of a folder or a list, each as a job of its own; ``find_files`` says which they are
* ``FileOutcome``, ``summary``: what became of each, and all of them in a table
* ``upscale_live``, ``LiveOptions``, ``LiveResult``: a stream from the network or a device, frame by frame
* ``explain``: an error in words
* ``SegmentError``: segments of a video that failed
* ``ResumeError``: what an earlier run left behind does not fit
"""

from flashvsr.upscale.errors import ResumeError, explain
from flashvsr.upscale.files import FileOutcome, summary, upscale_files
from flashvsr.upscale.listing import FilePair, find_files
from flashvsr.upscale.live import LiveResult, upscale_live
from flashvsr.upscale.options import ClipOptions, EncodeOptions, LiveOptions, LoadOptions
from flashvsr.upscale.run import UpscaleResult, upscale_file
from flashvsr.upscale.segments import SegmentError

__all__ = [
    "ClipOptions",
    "EncodeOptions",
    "FileOutcome",
    "FilePair",
    "LiveOptions",
    "LiveResult",
    "LoadOptions",
    "ResumeError",
    "SegmentError",
    "UpscaleResult",
    "explain",
    "find_files",
    "summary",
    "upscale_file",
    "upscale_files",
    "upscale_live",
]
