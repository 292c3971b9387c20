"""A stream within so much memory of a GPU: what lies on the host instead, so that frames stay the same."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flashvsr.kernels.host_layers import STAGED
from flashvsr.models.dit import VideoDiT
from flashvsr.models.host_blocks import HostBlocks, HostModule
from flashvsr.models.memory import GIB, MemoryNeeds, estimate_needs

if TYPE_CHECKING:
    from flashvsr.models.system import FlashVSR

RESERVE_GIB = 1.25
"""For what PyTorch's allocator keeps beyond what is counted, with workspaces of libraries: an H200 measured 0.93 GiB at
768x1408 and 0.95 at 1152x2048 without a limit."""


@dataclass(frozen=True)
class MemoryPlan:
    """How a stream is made to fit.

    Attributes:
        size: Rows and columns of its padded output.
        gib: What it may take.
        estimated_gib: What it takes, by estimate.
        layers_away: Layers whose keys and values lie on the host.
        blocks_away: Blocks whose weights do.
        rests: Whether the weights of the LR projection and what the decoder remembers lie there while they are idle.
        cache_gib: Room for keys and values on the device that has so many layers lie on the host; None for all.
    """

    size: tuple[int, int]
    gib: float
    estimated_gib: float
    layers_away: int
    blocks_away: int
    rests: bool
    cache_gib: float | None

    def __str__(self) -> str:
        """In words, as the `paths` of a system have it."""
        away = [
            f"{what} of {count} {whose}"
            for what, count, whose in (
                ("keys and values", self.layers_away, "layers"),
                ("weights", self.blocks_away, "blocks"),
            )
            if count
        ]
        away += ["what is idle"] if self.rests else []
        where = f", with {', '.join(away)} on the host" if away else ""
        return f"about {self.estimated_gib:.1f} of {self.gib:g} GiB{where}"


@dataclass
class Placement:
    """What of a system lies in host memory.

    Attributes:
        plan: Of the last stream; None before the first one and without a limit.
        projection: The LR projection, if its weights lie there; what the decoder remembers then lies there, too, until
            it is used.
    """

    plan: MemoryPlan | None = None
    projection: HostModule | None = None


def check_limit(gpu_gib: float, devices: Sequence[torch.device], cache_gib: float | None, decoder: str) -> None:
    """Refuse a limit that cannot be kept, before anything is loaded.

    Args:
        gpu_gib: GiB of the GPU.
        devices: That were asked for.
        cache_gib: That was asked for.
        decoder: That was asked for, ``"tiny"`` or ``"full"``.

    Raises:
        ValueError: If the limit is not positive, there is not just one GPU, the limit of keys and values is given
            besides, or the decoder takes more than is counted.
    """
    if not 0 < gpu_gib < math.inf:
        raise ValueError(f"gpu_gib is a positive number of GiB, got {gpu_gib:g}")
    if cache_gib is not None:
        raise ValueError(f"gpu_gib={gpu_gib:g} decides where keys and values lie: leave out cache_gib={cache_gib:g}")
    if decoder == "full":  # an H200 took 5 GiB more than its tensors at 768x1408
        raise ValueError(f"gpu_gib={gpu_gib:g} does not count what the full decoder takes: leave out one of them")
    if len(devices) > 1:
        names = ", ".join(map(str, devices))
        raise ValueError(f"gpu_gib={gpu_gib:g} is for one GPU, and there are {names}: name one, or leave it out")
    if devices[0].type != "cuda":
        raise ValueError(f"gpu_gib={gpu_gib:g} is for a GPU, and the device is {devices[0]}: leave it out")


def limit_allocator(device: torch.device, gib: float) -> None:
    """Have PyTorch keep no more of a GPU than that, in this process: it frees what it kept to use again, then fails."""
    index = torch.cuda.current_device() if device.index is None else device.index
    total = torch.cuda.get_device_properties(index).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total), index)


def plan_memory(needs: MemoryNeeds, gib: float) -> MemoryPlan:
    """Choose the cheapest means by which a stream fits: keys and values on the host, then weights, then what is idle.

    Args:
        needs: Of the stream.
        gib: GiB that it may take.

    Returns:
        The plan with the fewest layers, and then the fewest blocks, on the host.

    Raises:
        ValueError: If nothing makes it fit; says how much would do.
    """
    # Of either, two are on the device at a time: fewer than three on the host would save nothing.
    layers = [0, *range(STAGED + 1, needs.blocks + 1)] if needs.layer else [0]
    blocks = range(STAGED + 1, needs.blocks + 1)
    choices = [(away, 0, False) for away in layers] + [(layers[-1], away, False) for away in blocks]
    choices.append((*choices[-1][:2], True))
    estimates = [(needs.peak(*choice) / GIB + RESERVE_GIB, choice) for choice in choices]
    for estimate, (layers_away, blocks_away, rests) in estimates:
        if estimate <= gib:
            room = (needs.blocks - layers_away + STAGED + 0.5) * needs.layer / GIB if layers_away else None
            return MemoryPlan(needs.size, gib, estimate, layers_away, blocks_away, rests, room)
    least = math.ceil(10 * min(estimates)[0]) / 10
    raise ValueError(
        f"{needs.size[0]}x{needs.size[1]} needs at least {least:.1f} GiB of the GPU, more than --gpu-gib {gib:g}: give "
        "it more, or take a smaller --scale"
    )


def fit(system: FlashVSR, size: tuple[int, int], gib: float) -> None:
    """Make the next stream of a system fit, in place.

    Later streams leave weights on the host that earlier ones put there: one may be recorded with those on the device
    where they are.

    Args:
        system: On one device.
        size: Rows and columns of the padded output.
        gib: GiB that it may take.

    Raises:
        ValueError: If nothing makes it fit, or the host has too little memory for what the GPU has no room for.
    """
    dit, placement = system.dit, system.placement
    last = placement.plan
    if last is not None and (last.size, last.gib) == (size, gib):
        return
    needs = estimate_needs(system, *size)
    plan = plan_memory(needs, gib)
    check_host(plan, plan.layers_away * needs.layer, dit.spare_bytes)
    dit.cache_gib = plan.cache_gib
    away = dit.host_blocks.away if last is not None and dit.host_blocks else 0
    place_blocks(dit, max(away, plan.blocks_away), system.device)
    if plan.rests and placement.projection is None:
        placement.projection = HostModule(system.projection, system.device)
    placement.plan = plan


def check_host(plan: MemoryPlan, wanted: int, spare: int) -> None:
    """Refuse a plan for which the host has too little memory, where that can be known: systems kill who takes more.

    Args:
        plan: Of a stream.
        wanted: Bytes of the host for keys and values.
        spare: Bytes that an earlier stream left for them.

    Raises:
        ValueError: With both figures.
    """
    free = available_bytes()
    if free is not None and wanted > free + spare:
        height, width = plan.size
        raise ValueError(
            f"{height}x{width} with --gpu-gib {plan.gib:g} needs {wanted / GIB:.1f} GiB of the host's memory, of which "
            f"{(free + spare) / GIB:.1f} are free: give it more of the GPU, or take a smaller --scale"
        )


def available_bytes() -> int | None:
    """Memory of the host that can be taken without swapping; None where Linux does not tell."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def keep_on_host(dit: VideoDiT, device: torch.device) -> None:
    """Move a transformer to a device, but for its blocks, whose weights stay on the host until a stream is opened."""
    dit.requires_grad_(False)
    for part in dit.children():
        if part is not dit.blocks:
            part.to(device)
    place_blocks(dit, len(dit.blocks), dit.patch_embedding.weight.device)


def place_blocks(dit: VideoDiT, away: int, device: torch.device) -> None:
    """Have the weights of so many blocks on the host and the others on the device."""
    if (dit.host_blocks.away if dit.host_blocks else 0) == away:
        return
    with torch.inference_mode(False), torch.no_grad():
        if away:
            dit.host_blocks = HostBlocks(dit.blocks, away, device)
        else:
            dit.host_blocks = None
            dit.blocks.to(device)
