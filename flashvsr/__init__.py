"""Streaming diffusion video super-resolution (FlashVSR, https://arxiv.org/abs/2510.12747).

The names below are imported on first use, so that ``import flashvsr`` costs nothing:

* ``load``: a packaged model by name, or a model folder, as a ready system
* ``FlashVSR``: the system class, to assemble one by hand
* ``upscale_file``: a video file in, a 4x video file out
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashvsr.models.loading import load
    from flashvsr.models.system import FlashVSR
    from flashvsr.upscale import upscale_file

__version__ = "0.1.0"
__all__ = ["FlashVSR", "__version__", "load", "upscale_file"]

_LAZY = {
    "FlashVSR": "flashvsr.models.system",
    "load": "flashvsr.models.loading",
    "upscale_file": "flashvsr.upscale",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'flashvsr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
