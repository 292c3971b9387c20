"""Files of named tensors: read without loading them whole, and poured into a module that was built without memory."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

PICKLES = (".pth", ".pt", ".ckpt", ".bin")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Open a file of named tensors.

    Args:
        path: ``.safetensors``; ``.safetensors.index.json`` of a model in several of them; or a PyTorch file, read with
            ``weights_only=True``, whose tensors lie at the top or under ``model_state``.

    Returns:
        The tensors, mapped from the file: nothing is read before it is used.

    Raises:
        FileNotFoundError: If the file, or one that an index names, is not there.
        ValueError: If it is damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    if path.name.endswith(".index.json"):
        shards = _listed_files(path)
        return {name: tensor for shard in shards for name, tensor in read_tensors(path.with_name(shard)).items()}
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = read_pickle(path)
    if isinstance(content, dict) and "model_state" in content:
        content = content["model_state"]
    if not (isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())):
        raise ValueError(f"{path} does not hold named tensors, but a {type(content).__name__} of other things")
    return content


def _listed_files(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is damaged or no index of safetensors files; download or copy it again") from error


def read_pickle(path: Path) -> Any:
    """Open a PyTorch file of tensors, numbers and containers of them.

    Args:
        path: The file.

    Returns:
        What is in it, its tensors mapped from the file where its format allows.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If it is damaged, or would run code when read.
    """
    if path.suffix not in PICKLES:
        raise ValueError(f"{path} is none of .safetensors, {', '.join(PICKLES)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise ValueError(
                f"{path} holds Python objects, which could run code; only files of plain tensors are read"
            ) from error
        raise ValueError(f"{path} is truncated or not a PyTorch file; download or copy it again") from error


def build_empty(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module without memory for its parameters.

    Args:
        build: Returns the module.

    Returns:
        The module on the meta device; one with buffers that no file holds, which have to be computed, on the CPU.
    """
    with torch.device("meta"):
        module = build()
    in_files = module.state_dict()
    return module if all(name in in_files for name, _ in module.named_buffers()) else build()


def load_tensors(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Give a module the tensors of a file, all of them and no others, one at a time.

    Args:
        module: Of :func:`build_empty`, or any. Its parameters keep their storage order.
        tensors: By name; copied.
        source: What errors call them, such as the file's name.
        device: Where they go.
        dtype: Of floating-point ones; None keeps each as it is.

    Returns:
        `module`.

    Raises:
        ValueError: If a tensor is missing, unexpected or of another shape; the first one is named.
    """
    expected = module.state_dict()
    problems = [
        f"{name} is missing"
        if name not in tensors
        else f"{name} is {list(tensors[name].shape)}, not {list(like.shape)}"
        for name, like in expected.items()
        if name not in tensors or tensors[name].shape != like.shape
    ]
    problems += [f"{name} is unexpected" for name in tensors if name not in expected]
    if problems:
        raise ValueError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(problems[:3])}"
            f"{'; ...' if len(problems) > 3 else ''} ({len(problems)} such tensors, {len(expected)} expected)"
        )
    placed = {}
    for name, like in expected.items():
        tensor = tensors[name]
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        place = torch.empty_strided(like.shape, like.stride(), dtype=kind, device=device)
        placed[name] = place.copy_(tensor)
    module.load_state_dict(placed, strict=True, assign=True)
    return module.to(device=device, dtype=dtype)  # buffers that no file holds


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{path} {_damage(path) or f'is damaged ({error})'}; download or copy it again") from error


def _damage(path: Path) -> str | None:
    """What is wrong with a safetensors file: it is cut short, with the first tensor this costs; or no such file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 16 or header_bytes > 1 << 28:
            return "is not a safetensors file"
        header = file.read(header_bytes)
    if len(header) < header_bytes:
        return "is truncated within its header"
    try:
        entries = json.loads(header)
    except ValueError:
        return "is not a safetensors file"
    entries.pop("__metadata__", None)
    ends = {name: 8 + header_bytes + entry["data_offsets"][1] for name, entry in entries.items()}
    lost = sorted((end, name) for name, end in ends.items() if end > size)
    if not lost:
        return None
    whole = max(ends.values())
    return f"is truncated at {size:,} of {whole:,} bytes; {lost[0][1]} is the first of {len(lost)} lost tensors"
