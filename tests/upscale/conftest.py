"""Clips that several tests of the upscaler share."""

from pathlib import Path

import pytest

from tests.upscale.standin import write_clip


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames of 32 x 48 pixels, 2.5 seconds, with sound."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")
