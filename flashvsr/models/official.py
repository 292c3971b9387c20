"""The published files: FlashVSR v1 and v1.1, and the Wan2.1-1.3B backbone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.attention import FullAttention
from flashvsr.models.builders import video_dit_1b
from flashvsr.models.dit import VideoDiT
from flashvsr.models.folder import Component, ModelFolder
from flashvsr.models.weight_files import build_empty, load_tensors, read_pickle, read_tensors

BUILDERS: dict[str, tuple[str, str]] = {
    "projection": ("LQ_proj_in.ckpt", "flashvsr.models.lr_projection_1b"),
    "dit": ("diffusion_pytorch_model_streaming_dmd.safetensors", "flashvsr.models.video_dit_1b"),
    "decoder": ("TCDecoder.ckpt", "flashvsr.models.tiny_conditional_decoder_1b"),
    "vae": ("Wan2.1_VAE.pth", "flashvsr.models.wan_vae"),
}
"""File and builder of each component."""

PROMPT_FILE = "posi_prompt.pth"
PROMPT_SHAPE = (1, 512, 4096)
VARIANTS = {"v1": "buffered", "v1.1": "causal"}
PROJECTION_V11_SHA256 = "d6d011cdaaba6a52645086caa08fa04124e746f6ca568140a24007591142bfd2"
WAN_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")


def is_official_folder(path: Path) -> bool:
    """Whether a folder holds a published FlashVSR download, complete or not."""
    return any((path / file).exists() for file, _ in BUILDERS.values())


def read_official_folder(
    path: str | Path, *, version: str | None = None, prompt: str | Path | Tensor | None = None
) -> ModelFolder:
    """Describe a published download as a model folder; ``save_model_folder`` then makes it one of ours.

    Args:
        path: The folder.
        version: ``"v1"`` or ``"v1.1"``, whose files look alike and compute differently; None to tell by the hash of
            the LR projection, which is known for v1.1.
        prompt: Text embedding `[1, 512, 4096]` or its file; None when `posi_prompt.pth` lies in the folder.

    Returns:
        Components of the files that are there.

    Raises:
        FileNotFoundError: If the prompt is neither given nor in the folder.
        ValueError: If the version is unknown, cannot be found or is not that of the hash, or the prompt has another
            shape.
    """
    path = Path(path)
    if version is not None and version not in VARIANTS:
        raise ValueError(f"version is one of {', '.join(VARIANTS)}; got {version!r}")
    init_args: dict[str, dict[str, Any]] = {
        "projection": {"variant": VARIANTS[_check_version(path, version)]},
        "dit": {"attention": {"class_path": "flashvsr.attention.LocalSparseAttention", "init_args": {}}},
    }
    components = {
        name: Component(builder, init_args.get(name, {}), path / file)
        for name, (file, builder) in BUILDERS.items()
        if (path / file).exists()
    }
    return ModelFolder(path, components, _find_prompt(path, prompt))


def load_wan_base(
    path: str | Path,
    *,
    attention: Callable[[int, int], nn.Module] = FullAttention,
    activation_checkpointing: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> VideoDiT:
    """Load Wan2.1-T2V-1.3B, what training starts from.

    Args:
        path: The safetensors file, the index of several, or the folder of either.
        attention: Builds a self-attention layer from (dim, heads); all have the same parameters.
        activation_checkpointing: See :func:`~flashvsr.models.video_dit_1b`.
        device: Where it goes.
        dtype: Of its parameters; None keeps that of the file.

    Returns:
        The transformer.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or holds another model; the first tensor that does not fit is named.

    Reference:
        Wan2.1, https://arxiv.org/abs/2503.20314.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in WAN_FILES if (path / name).is_file()]
        if not found:
            raise FileNotFoundError(f"{path} holds neither {' nor '.join(WAN_FILES)}")
        path = found[0]
    tensors = read_tensors(path)
    dit = build_empty(lambda: video_dit_1b(attention, activation_checkpointing=activation_checkpointing))
    load_tensors(dit, tensors, str(path), device=device, dtype=dtype)
    assert isinstance(dit, VideoDiT)
    return dit


def _check_version(path: Path, version: str | None) -> str:
    """The given version or that of the hash, which must agree; only v1.1 has a known hash."""
    file = path / BUILDERS["projection"][0]
    known = False
    if version != "v1.1" and file.is_file():
        with file.open("rb") as content:
            known = hashlib.file_digest(content, "sha256").hexdigest() == PROJECTION_V11_SHA256
    if known and version == "v1":
        raise ValueError(f'{file} is the published file of v1.1: say version="v1.1", or leave it out')
    if version is None and not known:
        raise ValueError(
            f"{path} may be FlashVSR v1 or v1.1: {file.name} is not the known file of v1.1. The two look alike and the "
            'wrong one gives ghosts; say version="v1" or version="v1.1"'
        )
    return version or "v1.1"


def _find_prompt(path: Path, prompt: str | Path | Tensor | None) -> Tensor:
    if prompt is None:
        prompt = path / PROMPT_FILE
        if not prompt.is_file():
            raise FileNotFoundError(
                f"{PROMPT_FILE} is not in {path}. It is not among the published weights but in the code repository, "
                f"under examples/WanVSR/prompt_tensor: copy it into the folder, or pass its path as prompt"
            )
    tensor = prompt if isinstance(prompt, Tensor) else read_pickle(Path(prompt))
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != PROMPT_SHAPE:
        found = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"the prompt embedding is a tensor {list(PROMPT_SHAPE)}, got {found}")
    return tensor
