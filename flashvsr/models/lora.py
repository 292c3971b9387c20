"""Low-rank adapters on the linear layers of a network, through peft, and the way back to plain weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor, nn

_ADAPTER = "default"  # peft's name of the only adapter


def with_lora(
    module: nn.Module,
    rank: int = 384,
    alpha: float | None = None,
    targets: Sequence[str] = ("q", "k", "v", "o", "ffn.0", "ffn.2"),
) -> nn.Module:
    """Freeze a network and put a trainable low-rank adapter on some of its linear layers.

    The network keeps its class and methods and, until it is trained, its output. Parameters are renamed
    (``q.weight`` becomes ``q.base_layer.weight``); :func:`merged_state_dict` gives the plain names back.

    Args:
        module: The network; it is changed in place.
        rank: Of the adapters.
        alpha: The update is scaled by ``alpha / rank``; None is 1.
        targets: Ends of the names of the layers, dots included.

    Returns:
        The same network.

    Raises:
        ModuleNotFoundError: If peft is not installed.
        ValueError: If the rank is below 1, a target names no linear layer, or there are adapters already.

    Reference:
        LoRA, https://arxiv.org/abs/2106.09685.
    """
    if rank < 1:
        raise ValueError(f"rank is at least 1, got {rank}")
    if _adapters(module):
        raise ValueError("this network has adapters already; merge them first with merge_lora")
    linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in linear):
            raise ValueError(f"no linear layer of {type(module).__name__} is named {target!r}; there are {linear[:12]}")
    try:
        peft = import_module("peft")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("with_lora needs peft: pip install flashvsr[train]") from error
    chosen = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
    config = peft.LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=chosen)
    peft.inject_adapter_in_model(config, module)
    return module


def merged_state_dict(module: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Weights under the names they had before :func:`with_lora`, with the adapters added; nothing is changed.

    Args:
        module: A network with adapters, or without any.
        state: Its state dict from elsewhere, such as an average of weights or one gathered from many processes; None
            is its own.

    Returns:
        The state dict of the network without adapters; products of adapters are computed in fp32 or better.
    """
    state = module.state_dict() if state is None else state
    adapters = _adapters(module)
    merged: dict[str, Tensor] = {}
    for key, value in state.items():
        if ".lora_" in f".{key}":
            continue
        name, _, parameter = key.rpartition(".base_layer.")
        if name not in adapters or not parameter:
            merged[key] = value
            continue
        if parameter == "weight":
            down, up = (state[f"{name}.lora_{side}.{_ADAPTER}.weight"] for side in "AB")
            update = up.double() @ down.double() if value.is_cpu else up.float() @ down.float()
            value = (value.to(update.dtype) + update * adapters[name].scaling[_ADAPTER]).to(value.dtype)
        merged[f"{name}.{parameter}"] = value
    return merged


def merge_lora(module: nn.Module) -> nn.Module:
    """Add the adapters of :func:`with_lora` to the weights and remove them, in place; all weights train again.

    Args:
        module: A network with adapters, or without any.

    Returns:
        The same network, under its plain names.
    """
    merged = merged_state_dict(module)
    for name, adapter in _adapters(module).items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, adapter.base_layer)
    if hasattr(module, "peft_config"):
        del module.peft_config
    module.load_state_dict(merged, strict=True)
    return module.requires_grad_(True)


def _adapters(module: nn.Module) -> dict[str, Any]:
    return {name: part for name, part in module.named_modules() if hasattr(part, "base_layer")}
