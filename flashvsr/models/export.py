"""What a recipe says of a network, as the component of a model folder that its trained weights go to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flashvsr.models.class_paths import build, is_reference
from flashvsr.models.folder import Component
from flashvsr.models.loading import described_component
from flashvsr.models.weight_files import build_empty, load_tensors

OURS = "flashvsr.models."


def trained_component(part: Mapping[str, Any], tensors: Mapping[str, Tensor], source: str) -> Component:
    """The component of a network that a recipe made and a stage trained.

    Args:
        part: What the recipe says of it, ``{"class_path": ..., "init_args": ...}``: a class or builder that a model
            folder may name, or one of ``component``, ``load_wan_base`` and ``with_lora`` of ``flashvsr.models``.
        tensors: Its trained parameters and buffers, whole, without adapters.
        source: What errors call them.

    Returns:
        The component, built anew with those weights: what is written can be read.

    Raises:
        ValueError: If a model folder may not hold it, or the tensors do not fit.
    """
    class_path, init_args = plain_part(part)
    module = build_empty(lambda: build(class_path, init_args))
    return Component(class_path, init_args, load_tensors(module, tensors, source))


def plain_part(part: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Class path and arguments of the network itself, without what loads or wraps it."""
    class_path, init_args = part["class_path"], part.get("init_args") or {}
    name = class_path.removeprefix(OURS) if class_path.startswith(OURS) else ""
    match name.rpartition(".")[2]:
        case "component":
            described = described_component(init_args["folder"], init_args["name"], init_args.get("overrides"))
            return described.class_path, described.init_args
        case "load_wan_base":
            return f"{OURS}video_dit_1b", {key: init_args[key] for key in ("attention",) if key in init_args}
        case "with_lora":
            return plain_part(next(value for value in init_args.values() if is_reference(value)))
    return class_path, init_args
