"""Settings of a run, grouped by whom they concern: the model, and the file that is written."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded from its name or folder: the options of `flashvsr.load`, which checks them.

    Attributes:
        version: Release of an official folder, ``"v1"`` or ``"v1.1"``; None finds it by hash.
        prompt: Prompt tensor of an official folder; None looks for it in the folder.
        decoder: ``"tiny"`` or ``"full"`` (the Wan2.1 VAE).
        color: ``"adain"``, ``"wavelet"`` or ``"none"``; ``"auto"`` for the choice of the model.
        device: ``"auto"``, a device of PyTorch, or several GPUs: ``"cuda:0,cuda:1"``, ``"cuda:*"``.
        dtype: ``"auto"``, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        impl: Attention implementation, ``"auto"`` or a name.
        sparse_ratio: Density of attention, lower is faster; None keeps the model's own.
        fp8: Compute two thirds of the transformer's products in 8-bit floats: faster and less exact.
        cache_gib: GiB of a GPU's memory for keys and values; the rest of them lies in the host's memory, which
            changes no frame. None is 24, which only frames of about 4K exceed; ``math.inf`` keeps all on the GPU.
        trust_code: Allow a folder to name classes outside this library.
    """

    version: str | None = None
    prompt: str | Path | None = None
    decoder: str = "tiny"
    color: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    impl: str = "auto"
    sparse_ratio: float | None = None
    fp8: bool = False
    cache_gib: float | None = None
    trust_code: bool = False


@dataclass(frozen=True)
class EncodeOptions:
    """How the output is encoded.

    Attributes:
        codec: ``"auto"``, or a video encoder by its FFmpeg name.
        crf: Quality of the encoder, lower is better.
        format: Container; ``"auto"`` goes by the ending, Matroska for stdout.
        fps: Frame rate of an input without timestamps; None takes what it states, else 25.
    """

    codec: str = "auto"
    crf: float = 16
    format: str = "auto"
    fps: Fraction | None = None
