"""Where tests find golden tensors and real clips, and which ones need a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

EXTRACT = Path(__file__).parent / "golden"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU: what this test checks was not checked here"))


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Load a file of golden tensors: from the full set in FLASHVSR_GOLDEN, or from the extract beside the tests."""

    def load(name: str) -> Any:
        folder = Path(os.environ.get("FLASHVSR_GOLDEN", EXTRACT))
        return torch.load(folder / name, weights_only=True)

    return load


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real clips and photographs that FLASHVSR_DATA names."""
    folder = os.environ.get("FLASHVSR_DATA")
    if not folder:
        pytest.skip("FLASHVSR_DATA is not set: real clips (HDR, rotated, .ts, .264) were not read")
    return Path(folder)
