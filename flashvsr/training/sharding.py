"""Networks spread over processes with FSDP2, and networks that a stage uses and does not train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method


def shard_networks(networks: Sequence[nn.Module], mesh: DeviceMesh) -> None:
    """Shard networks in place: the children of a ``blocks`` list one by one, then what is left of each.

    Args:
        networks: Those that are trained or large. Processes start from equal weights.
        mesh: One-dimensional, the data-parallel processes.
    """
    for network in networks:
        if isinstance(network, FSDPModule):
            continue
        for parameter in network.parameters():
            if not parameter.is_contiguous():  # the channels-last weights of the LR projection; FSDP takes none
                parameter.data = parameter.data.contiguous()
        for block in getattr(network, "blocks", ()):
            if hasattr(block, "cross_attn"):  # asked for keys and values of the prompt before its block runs
                fully_shard(block.cross_attn, mesh=mesh)
                register_fsdp_forward_method(block.cross_attn, "project_context")
            fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
        for method in ("forward_packed", "reconstruct", "encode", "decode"):
            if hasattr(network, method):
                register_fsdp_forward_method(network, method)


def shard_stage(stage: Any, networks: Mapping[str, nn.Module]) -> None:
    """Shard networks if the strategy of their stage has a device mesh; else leave them.

    Args:
        stage: A LightningModule, in ``configure_model``.
        networks: By name.

    Raises:
        ValueError: If the strategy reserves processes for tensor parallelism, as Lightning does by default.
    """
    if stage.device_mesh is None:
        return
    if stage.device_mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            f"{', '.join(networks)}: sharded over data-parallel processes only; pass ModelParallelStrategy "
            "data_parallel_size=<all processes> and tensor_parallel_size=1"
        )
    shard_networks(list(networks.values()), stage.device_mesh["data_parallel"])


def freeze(module: nn.Module, names: Sequence[str]) -> None:
    """Freeze children of a module and leave them out of its ``state_dict``.

    They come back from where the recipe has them. Loading stays strict for everything else: the values they have are
    filled in before the keys are compared. Under a strategy with a device mesh they stay in: Lightning's loader of
    sharded models compares keys by itself.

    Args:
        module: The parent.
        names: Its children; those that are None are passed over.
    """
    names = [name for name in names if getattr(module, name) is not None]
    for name in names:
        getattr(module, name).requires_grad_(False).eval()
    module.frozen_names = tuple(names)  # type: ignore[assignment]  # a module takes any attribute
    module.register_state_dict_post_hook(_leave_out)
    module.register_load_state_dict_pre_hook(_fill_in)


def _leave_out(module: Any, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    if getattr(module, "device_mesh", None) is not None:
        return
    beginnings = tuple(f"{prefix}{name}." for name in module.frozen_names)
    for key in [key for key in state_dict if key.startswith(beginnings)]:
        del state_dict[key]


def _fill_in(module: Any, state_dict: dict[str, Any], prefix: str, *unused: Any) -> None:
    for name in module.frozen_names:
        for key, value in getattr(module, name).state_dict().items():
            state_dict.setdefault(f"{prefix}{name}.{key}", value)
