"""Networks spread over processes with FSDP2."""

from __future__ import annotations

from collections.abc import Sequence

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
        for method in ("forward_packed", "encode", "decode"):
            if hasattr(network, method):
                register_fsdp_forward_method(network, method)
