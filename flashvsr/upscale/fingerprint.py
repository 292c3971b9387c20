"""Short, cheap answers to "is this the same input, the same model?", for a run that is resumed days later.

Only the ends of files and tensors are read: a film or a checkpoint is told from another in a moment. This
guards against mix-ups, not against someone who wants to deceive.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from flashvsr.upscale.options import ClipOptions, EncodeOptions, LoadOptions
from flashvsr.video import is_pattern, numbered_images

ENDS = 1 << 24  # bytes read at either end, of all files together
SMALLEST_END = 1 << 10  # bytes read at either end of each file at least
TENSOR_ENDS = 64  # values read at either end of a tensor


def asked_for(
    source: str,
    model: Any,
    *,
    clip: ClipOptions,
    loading: LoadOptions,
    encoding: EncodeOptions,
    scale: float,
    seed: int,
) -> dict[str, Any]:
    """Input, model and options of a run, as far as they shape the output, by the names that people know them under.

    Args:
        source: The input.
        model: As `fingerprint_model` takes it.
        clip: Which part of the input, and to what size.
        loading: How the model is loaded.
        encoding: How the output is encoded.
        scale: Enlargement.
        seed: Of the noise.

    Returns:
        Values that JSON keeps as they are.

    Raises:
        OSError: If input or model cannot be read.
    """
    unseen = ("cache_gib", "gpu_gib", "trust_code")  # no frame depends on them
    shaping = {name: value for name, value in vars(loading).items() if name not in unseen}
    shaping["fast"] = True if loading.fast else None
    shaping["detail"] = None if loading.detail == 1 else float(loading.detail)
    shaping |= {name: value for name, value in vars(clip).items() if value is not None}
    return {
        "input": fingerprint_source(source),
        "model": fingerprint_model(model),
        **{name: value if value is None else str(value) for name, value in shaping.items()},
        "scale": float(scale),
        "seed": seed,
        "codec": encoding.codec,
        "crf": float(encoding.crf),
        "format": encoding.format,
        "fps": None if encoding.fps is None else str(encoding.fps),
        "deinterlacing": encoding.deinterlace,
    }


def fingerprint_source(source: str) -> str:
    """Tell an input from another.

    Args:
        source: A file, an image folder, a printf pattern, or ``"example:"``.

    Returns:
        Its name, and 16 hexadecimal digits over the names, sizes and ends of its files. The folder it lies in does not
        count, so it may move.

    Raises:
        FileNotFoundError: If it is not there.
    """
    if source == "example:":
        return source
    path = Path(source)
    if is_pattern(path.name) and not path.exists():
        return f"{path.name} {fingerprint_paths(image for _, image in numbered_images(path))}"
    if not path.exists():
        raise FileNotFoundError(f"{source} does not exist: check the name")
    return f"{path.name} {fingerprint_paths([path])}"


def fingerprint_model(model: Any) -> str:
    """Tell a model from another.

    Args:
        model: The name of a packaged model, identified by the library's version; a model folder; or a system.

    Returns:
        Name, and hexadecimal digits for a folder or a system.
    """
    if not isinstance(model, str | Path):
        return fingerprint_system(model)
    path = Path(model)
    return f"{path.name} {fingerprint_paths([path])}" if path.exists() else str(model)


def fingerprint_paths(paths: Iterable[Path]) -> str:
    """Names, sizes and both ends of some files.

    Args:
        paths: Files, and folders, which stand for all files below them. The order does not matter.

    Returns:
        16 hexadecimal digits.

    Raises:
        OSError: If one cannot be read.
    """
    files: list[tuple[str, Path]] = []
    for path in paths:
        inner = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        files += [(str(file.relative_to(path.parent)), file) for file in inner]
    ends = max(SMALLEST_END, ENDS // max(1, len(files)))
    digest = hashlib.sha256()
    for name, file in sorted(files):
        length = file.stat().st_size
        digest.update(os.fsencode(f"{name}\0{length}\0"))
        with file.open("rb") as content:
            digest.update(content.read(ends))
            content.seek(max(0, length - ends))
            digest.update(content.read(ends))
    return digest.hexdigest()[:16]


def fingerprint_system(system: Any) -> str:
    """Class and weights of a model that was handed over as an object.

    Args:
        system: Anything. If it has a ``state_dict()``, the name, shape, dtype and both ends of every tensor count.

    Returns:
        ``"Class 0123456789abcdef"``, and its detail if that is less than 1.
    """
    kind = type(system)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}".encode())
    tensors: Mapping[str, Tensor] = system.state_dict() if hasattr(system, "state_dict") else {}
    for name, tensor in tensors.items():
        digest.update(f"{name}\0{tuple(tensor.shape)}\0{tensor.dtype}".encode())
        flat = tensor.detach().flatten()
        for end in (flat[:TENSOR_ENDS], flat[-TENSOR_ENDS:]):
            digest.update(end.double().cpu().numpy().tobytes())
    detail = getattr(system, "detail", 1)
    return f"{kind.__qualname__} {digest.hexdigest()[:16]}" + ("" if detail == 1 else f", detail {detail:g}")
