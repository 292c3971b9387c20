"""``flashvsr app``: a local web page that upscales videos and pictures.

* ``WorkFolder``: the private folder of uploads and results
* ``check_upload``, ``Upload``: is this file a video or a picture, and what is in it
* ``Queue``, ``QueuedFile``, ``Settings``: files that wait, run, stop and go on, one at a time
* ``preview``, ``Comparison``: one frame or a few seconds, before and after

Nothing here needs Gradio. The page itself is in ``flashvsr.app.page``, and ``flashvsr.app.server`` serves it; these two
need the extra ``app``.
"""

from flashvsr.app.folder import WorkFolder
from flashvsr.app.preview import Comparison, preview
from flashvsr.app.queue import Queue
from flashvsr.app.queued_file import QueuedFile, Settings
from flashvsr.app.uploads import Upload, check_upload

__all__ = ["Comparison", "Queue", "QueuedFile", "Settings", "Upload", "WorkFolder", "check_upload", "preview"]
