"""The fixed text embedding of a model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def read_prompt(prompt: Tensor | str | Path | None) -> Tensor | None:
    """The embedding itself, or what a file of it holds.

    Args:
        prompt: `[1, L, text_dim]`; or a .safetensors file with the tensor "prompt"; or a .pth file of the tensor.

    Returns:
        `[1, L, text_dim]`, or None.

    Raises:
        ValueError: If it has another shape.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(prompt, str | Path):
        path = Path(prompt)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensor = load_file(path)["prompt"]
        else:
            tensor = torch.load(path, map_location="cpu", weights_only=True)
    elif prompt is None:
        return None
    else:
        tensor = prompt
    if tensor.ndim != 3 or tensor.shape[0] != 1:
        raise ValueError(f"a prompt embedding is [1, L, text_dim], got {list(tensor.shape)}")
    return tensor
