"""A queue with a model that takes no time, and clips to drop on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashvsr.app import Queue, WorkFolder
from tests.upscale.standin import StandIn, write_clip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "temporary").mkdir()
    with WorkFolder(tmp_path / "temporary") as folder:
        yield folder


@pytest.fixture
def queue(folder):
    queue = Queue(folder.files, lambda name: StandIn(), most_bytes=1_000_000)
    yield queue
    queue.close()


@pytest.fixture
def dropped(folder):
    """Writes a clip where the web server puts uploads."""

    def drop(name: str = "clip.mp4", frames: int = 60, **options) -> Path:
        return write_clip(folder.uploads / name, frames, **options)

    return drop
