"""A model folder with every network that streams, at toy size and untrained."""

from pathlib import Path
from typing import Any

import torch

from flashvsr.models.class_paths import build
from flashvsr.models.folder import Component, save_model_folder

ATTENTION = {
    "class_path": "flashvsr.attention.LocalSparseAttention",
    "init_args": {
        "window_hw": [3, 3],
        "boundary": "preserved",
        "sparse_ratio": 0.5,
        "history": 2,
        "rule": "keep_all_when_covered",
    },
}
PARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "projection": ("flashvsr.models.LRProjection", {"hidden": [8, 12], "dim": 64}),
    "dit": (
        "flashvsr.models.VideoDiT",
        {"dim": 64, "layers": 2, "heads": 2, "ffn_dim": 128, "text_dim": None, "attention": ATTENTION},
    ),
    "decoder": ("flashvsr.decoders.TinyConditionalDecoder", {"channels": [8, 8, 8, 8], "residual": True}),
}


def save_small_system(folder: str | Path) -> None:
    """Write the folder, with the same random weights every time."""
    torch.manual_seed(0)
    save_model_folder(folder, {name: Component(*part, build(*part)) for name, part in PARTS.items()}, color="none")
