"""File to file: a video is decoded, streamed through a model and encoded, all at once.

* ``upscale_file``: the whole job, as one function
* ``LoadOptions``, ``EncodeOptions``: how the model is loaded and the output encoded
* ``UpscaleResult``: what it returns
* ``ResumeError``: what an earlier run left behind does not fit
"""

from flashvsr.upscale.journal import ResumeError
from flashvsr.upscale.options import EncodeOptions, LoadOptions
from flashvsr.upscale.run import UpscaleResult, upscale_file

__all__ = ["EncodeOptions", "LoadOptions", "ResumeError", "UpscaleResult", "upscale_file"]
