"""A ready system from a name or a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flashvsr.attention import LocalSparseAttention
from flashvsr.attention.choice import IMPLS
from flashvsr.models.class_paths import merge_arguments
from flashvsr.models.decoder_system import DecoderSystem
from flashvsr.models.dit import VideoDiT
from flashvsr.models.fast import check_fast, fast_choices, use_fp8
from flashvsr.models.folder import DESCRIPTION, Component, ModelFolder, read_model_folder
from flashvsr.models.memory_plan import check_limit, keep_on_host, limit_allocator
from flashvsr.models.official import is_official_folder, read_official_folder
from flashvsr.models.parallel import spread
from flashvsr.models.system import LATENTS_ONLY, FlashVSR, check_detail

PACKAGED = Path(__file__).parent.parent / "weights"
DECODERS = {"tiny": "decoder", "full": "vae"}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


CACHE_GIB = 24.0
"""GiB of keys and values that stay on a GPU unless asked otherwise: only frames of about 4K have more."""


def load(
    model: str | Path,
    *,
    version: str | None = None,
    device: torch.device | str | Sequence[torch.device | str] = "auto",
    dtype: torch.dtype | str = "auto",
    impl: str = "auto",
    decoder: str = "tiny",
    color: str = "auto",
    detail: float = 1.0,
    prompt: str | Path | Tensor | None = None,
    sparse_ratio: float | None = None,
    cache_gib: float | None = None,
    gpu_gib: float | None = None,
    fp8: bool = False,
    fast: bool = False,
    trust_code: bool = False,
) -> FlashVSR | DecoderSystem:
    """Load a system that is ready to stream.

    A folder with a decoder and no transformer gives a :class:`~flashvsr.models.DecoderSystem`, which streams alike.

    Weights go tensor by tensor into a model built without memory: the host holds one model in its target dtype.

    Args:
        model: ``"nano"``, the packaged model; or a folder, ours or the published FlashVSR v1 or v1.1.
        version: ``"v1"`` or ``"v1.1"`` of a published folder; None to find it by its hash.
        device: ``"auto"`` takes a CUDA GPU if there is one, else the CPU. Several GPUs, such as ``"cuda:0,cuda:1"``
            or ``"cuda:*"`` for all, share the blocks of the transformer and give the same frames, see
            :func:`~flashvsr.models.parallel.spread`.
        dtype: ``"fp32"``, ``"bf16"``, ``"fp16"`` or a `torch.dtype`; ``"auto"`` is bf16 on a GPU (fp16
            where it has none) and on a CPU that multiplies it (AVX-512 BF16), else fp32.
        impl: Implementation of block-sparse attention.
        decoder: ``"tiny"``, or ``"full"`` for the VAE's decoder.
        color: ``"adain"``, ``"wavelet"`` or ``"none"``; ``"auto"`` for the choice of the model.
        detail: Factor of the latents, from 0 (the decoder alone) to 1 (the whole model), see
            :attr:`~flashvsr.models.FlashVSR.detail`.
        prompt: Text embedding of a published folder, or its file, if it does not lie in the folder.
        sparse_ratio: Density of attention; None keeps the model's own.
        cache_gib: GiB on each device for keys and values of a stream, see :class:`~flashvsr.models.VideoDiT`. None is
            :data:`CACHE_GIB` on a GPU and no limit elsewhere; ``math.inf`` is none on a GPU either.
        gpu_gib: GiB of the GPU that loading and one stream may take. What does not fit lies in host memory, first keys
            and values, then weights of the transformer: slower, and the same frames. A stream that cannot fit is
            refused when it is opened. PyTorch keeps no more than that on this GPU in this process from now on. Not for
            the full decoder, whose workspaces nobody has counted. None for no limit.
        fp8: Multiply in 8-bit floats in the linear layers of the transformer's blocks: faster and less exact. See
            :class:`~flashvsr.models.fp8.Fp8Linear`.
        fast: All that is faster and less exact, on a GPU with 8-bit floats: `fp8`, a `sparse_ratio` of 1.5 where the
            model's own is higher, and attention in 8 bits (`impl` ``"triton_8bit"``); a `sparse_ratio` or an `impl`
            that is given counts.
        trust_code: Allow a folder to name classes outside this library.

    Returns:
        The system, in evaluation mode, without gradients.

    Raises:
        FileNotFoundError: If the folder, a file or the prompt is not there.
        ValueError: If an argument is not one of its choices, or for a transformer that the model does not have; a
            file is damaged or does not fit; or the model is one that cannot stream.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder is one of {', '.join(DECODERS)}; got {decoder!r}")
    if impl not in ("auto", *IMPLS):
        raise ValueError(f"impl is one of auto, {', '.join(IMPLS)}; got {impl!r}")
    check_detail(detail)
    if detail != 1 and decoder == "full":
        raise ValueError(f"the full decoder sees only the latents and needs them whole: leave out detail={detail:g}")
    devices = choose_devices(device)
    device = devices[0]
    dtype = choose_dtype(dtype, device)
    folder = find_model(model, version=version, prompt=prompt)
    if folder.steps != 1:
        raise ValueError(
            f"{folder.path} is a model of {folder.steps} sampling steps and cannot stream; `flashvsr evaluate` runs it "
            "on whole clips"
        )
    if gpu_gib is not None:
        check_limit(gpu_gib, devices, cache_gib, decoder)
        limit_allocator(device, gpu_gib)
    color = folder.color if color == "auto" else color
    if "dit" not in folder.components and "decoder" in folder.components and decoder == "tiny":
        if len(devices) > 1:
            raise ValueError(f"{folder.path} is a decoder alone, which runs on one GPU: name one, not {len(devices)}")
        scaled = None if detail == 1 else detail
        unused = {"impl": impl, "sparse_ratio": sparse_ratio, "cache_gib": cache_gib}
        _check_unused(folder, **unused, fp8=fp8, fast=fast, detail=scaled)
        alone = folder.component("decoder").build(device=device, dtype=dtype, trust_code=trust_code)
        if isinstance(alone, LATENTS_ONLY):
            raise ValueError(f"{folder.path} has no transformer, and its decoder does not see the LR frames")
        small = DecoderSystem(alone, color=color).requires_grad_(False).eval()
        small.gpu_gib = gpu_gib
        return small
    if fast:  # before weights are read
        check_fast(device, dtype, impl=impl)
    parts = {name: folder.component(name) for name in ("projection", "dit", DECODERS[decoder])}
    places = {"dit": torch.device("cpu") if gpu_gib is not None else device}
    built = {
        name: part.build(device=places.get(name, device), dtype=dtype, trust_code=trust_code)
        for name, part in parts.items()
    }
    projection, dit, chosen = built.values()
    if not isinstance(dit, VideoDiT) or dit.order != "block":
        raise ValueError(
            f"{folder.path} has full attention and cannot stream; `flashvsr evaluate` runs it on whole clips"
        )
    if fast:
        check_fast(device, dtype, impl=impl, head_dim=dit.head_dim)
        impl, sparse_ratio = fast_choices(dit, impl=impl, sparse_ratio=sparse_ratio)
    adjust_attention(dit, impl, sparse_ratio)
    dit.cache_gib = CACHE_GIB if cache_gib is None and device.type == "cuda" else cache_gib
    if fp8 or fast:
        use_fp8(dit, device, dtype)
    if gpu_gib is not None:
        keep_on_host(dit, device)
    embedding = None if folder.prompt is None else folder.prompt.to(device, dtype, copy=True)
    system = FlashVSR(projection, dit, chosen, embedding, color=color, detail=detail).requires_grad_(False).eval()
    system.gpu_gib = gpu_gib
    return system if len(devices) == 1 else spread(system, devices)


def find_model(
    model: str | Path, *, version: str | None = None, prompt: str | Path | Tensor | None = None
) -> ModelFolder:
    """Find a model by name or folder, and read what it is made of.

    Args:
        model: As in :func:`load`.
        version: As in :func:`load`.
        prompt: As in :func:`load`.

    Returns:
        Its components; no weights are read yet.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If its description is not understood, or an argument is not for such a model.
    """
    path = Path(model)
    packaged = sorted(folder.parent.name for folder in PACKAGED.glob(f"*/{DESCRIPTION}"))
    if str(model) in packaged:
        path = PACKAGED / model
    if not path.is_dir():
        names = f" {', '.join(packaged)};" if packaged else ""
        raise FileNotFoundError(f"there is no model {str(model)!r}: packaged are{names or ' none;'} else pass a folder")
    if (path / DESCRIPTION).is_file():
        if version is not None or prompt is not None:
            raise ValueError(f"version and prompt are for published folders; {path} is one with a {DESCRIPTION}")
        return read_model_folder(path)
    if is_official_folder(path):
        return read_official_folder(path, version=version, prompt=prompt)
    raise FileNotFoundError(f"{path} is no model folder: it holds neither {DESCRIPTION} nor files of FlashVSR")


def component(
    folder: str | Path,
    name: str,
    *,
    overrides: dict | None = None,
    dtype: str = "fp32",
    trust_code: bool = False,
) -> nn.Module:
    """One trained network of a model, to go on training: in a recipe, ``class_path: flashvsr.models.component``.

    Args:
        folder: A name or folder, as in :func:`load`.
        name: ``projection``, ``dit``, ``decoder`` or ``vae``.
        overrides: Arguments other than those it was trained with: another attention layer with the same parameters,
            for instance ``{"attention": {"class_path": ..., "init_args": {...}}}``. A part of the same class, or
            without a class path, keeps the arguments that are not named, see
            :func:`~flashvsr.models.class_paths.merge_arguments`.
        dtype: Of its parameters, ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        trust_code: Allow the folder and `overrides` to name classes outside this library.

    Returns:
        A new module in training mode.

    Raises:
        FileNotFoundError: If the folder or a file of it is not there.
        ValueError: If the folder has no such component, or it takes no such argument, or its weights do not fit.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}; got {dtype!r}")
    return described_component(folder, name, overrides).build(dtype=DTYPES[dtype], trust_code=trust_code).train()


def described_component(folder: str | Path, name: str, overrides: Mapping[str, Any] | None = None) -> Component:
    """How :func:`component` builds its module, and from which weights; raises what it raises."""
    described = find_model(folder).component(name)
    return replace(described, init_args=merge_arguments(described.init_args, overrides or {}))


def choose_device(device: torch.device | str) -> torch.device:
    """The device meant: ``"auto"`` is a CUDA GPU if there is one, else the CPU.

    Raises:
        ValueError: If there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is auto, cpu, cuda or cuda:N; got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device is auto, cpu, cuda or cuda:N; got {device!r}, which no model was tried on")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no device {device!r} here: {torch.cuda.device_count()} CUDA GPUs; try --device cpu")
    return chosen


def choose_devices(device: torch.device | str | Sequence[torch.device | str]) -> list[torch.device]:
    """The devices meant: one, or several GPUs in the order in which a chunk passes them.

    Args:
        device: As for :func:`choose_device`, or several, as a sequence or with commas; ``"cuda:*"`` is all GPUs.

    Raises:
        ValueError: If one is not there or named twice, or they are not all GPUs.
    """
    if device == "cuda:*":
        count = torch.cuda.device_count()
        if not count:
            raise ValueError("there is no CUDA GPU here for device 'cuda:*'; try --device cpu")
        return [torch.device("cuda", index) for index in range(count)]
    names = device.split(",") if isinstance(device, str) else device
    if isinstance(names, torch.device) or len(names) == 1:
        return [choose_device(names if isinstance(names, torch.device) else names[0])]
    chosen = [choose_device(name.strip() if isinstance(name, str) else name) for name in names]
    if not chosen or {one.type for one in chosen} != {"cuda"}:
        kinds = ", ".join(map(str, chosen)) or "none"
        raise ValueError(f"several devices are GPUs, such as cuda:0,cuda:1 or cuda:*; got {kinds}")
    chosen = [torch.device("cuda", one.index or 0) for one in chosen]
    twice = sorted({str(one) for one in chosen if chosen.count(one) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is named more than once in device {device!r}: name each GPU once")
    return chosen


def _cpu_capabilities() -> Mapping[str, Any]:
    """Instruction sets of the CPU by name; none where PyTorch is too old to list them."""
    return torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}


def choose_dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype:
    """The dtype meant: ``"auto"`` is bf16 where the device multiplies it, else fp16 on a GPU and fp32 on a CPU.

    Raises:
        ValueError: If it is none of fp32, bf16, fp16.
    """
    if dtype == "auto":
        if device.type != "cuda":
            return torch.bfloat16 if _cpu_capabilities().get("avx512_bf16") else torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise ValueError(f"dtype is auto or one of {', '.join(DTYPES)}; got {dtype!r}")
    return chosen


def _check_unused(folder: ModelFolder, **options: Any) -> None:
    """Refuse what is for a transformer."""
    for name, value in options.items():
        if value is not None and value is not False and value != "auto":  # a detail of 0 is a value
            raise ValueError(f"{folder.path} is a decoder alone, without a transformer: leave out {name}={value!r}")


def adjust_attention(dit: VideoDiT, impl: str, sparse_ratio: float | None) -> None:
    """Choose the implementation of self-attention, and its density.

    Args:
        dit: Changed in place.
        impl: ``"auto"`` keeps that of each layer.
        sparse_ratio: None keeps that of each layer.

    Raises:
        ValueError: If a layer, of a class outside this library, has no such choice.
    """
    if sparse_ratio is not None and sparse_ratio <= 0:
        raise ValueError(f"sparse_ratio is positive, got {sparse_ratio}")
    for block in dit.blocks:
        layer = block.self_attn
        if impl != "auto":
            if not hasattr(layer, "impl"):
                raise ValueError(f"{type(layer).__name__} has no impl to choose: leave out impl={impl!r}")
            layer.impl = impl
        if sparse_ratio is not None:
            if not isinstance(layer, LocalSparseAttention):
                raise ValueError(f"{type(layer).__name__} has no sparse_ratio: leave out sparse_ratio={sparse_ratio}")
            layer.selection.sparse_ratio = sparse_ratio
