"""The table of an ablation study: what each variant costs, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import nn

from flashvsr.attention import LocalSparseAttention, TokenGrid, window_mask
from flashvsr.cli.ablation_plan import AblationPlan, AblationRun
from flashvsr.evaluate import half_width
from flashvsr.evaluate.columns import TITLES
from flashvsr.evaluate.tables import aligned
from flashvsr.models import FlashVSR, VideoDiT
from flashvsr.models.folder import ModelFolder
from flashvsr.models.loading import choose_device, choose_dtype, find_model

CHUNKS = 5
"""Steady chunks that are timed."""


def ablation_table(plan: AblationPlan, runs: Sequence[AblationRun]) -> str:
    """Parameters, density, speed and quality of every variant.

    Args:
        plan: The study.
        runs: Finished ones.

    Returns:
        Markdown. Quality is the mean over seeds of means over clips, with half the 95 % interval over seeds where there
        are several. Density is that of a steady chunk. A model that cannot stream has no time per chunk.
    """
    metrics = list(dict.fromkeys(metric for run in runs for metric in run.figures if metric in TITLES))
    height, width = plan.size
    head = ["variant", "seeds", "parameters", "kept, trained", f"kept, {height}x{width}", f"ms/chunk, {height}x{width}"]
    lines = [[*head, *(TITLES[metric][0] for metric in metrics)]]
    for variant in plan.variants:
        same = [run for run in runs if run.variant == variant]
        if same:
            costs = _costs(same[0], plan.size, trust_code="--trust-code" in plan.evaluate)
            quality = [_mean([run.figures.get(metric) for run in same], TITLES[metric][1]) for metric in metrics]
            lines.append([variant, str(len(same)), *costs, *quality])
    return aligned(lines) + "\n"


def kept_density(dit: nn.Module, size: tuple[int, int]) -> float | None:
    """Share of block pairs that a sparse transformer computes in a steady chunk.

    Args:
        dit: With :class:`~flashvsr.attention.LocalSparseAttention` layers that are all alike.
        size: Height and width in pixels, multiples of 128.

    Returns:
        Pairs within window and budget over all pairs of the visible slots; None without sparse layers.
    """
    layers = [layer for layer in dit.modules() if isinstance(layer, LocalSparseAttention)]
    if not layers:
        return None
    grid = TokenGrid(2, size[0] // 16, size[1] // 16)
    selection, slots = layers[0].selection, layers[0].history + 1
    window = window_mask(grid.blocks_hw, selection.window_hw, boundary=selection.boundary)
    return min(selection.budget(grid), int(window.sum()) * slots) / (window.numel() * slots)


def _costs(run: AblationRun, size: tuple[int, int], *, trust_code: bool) -> list[str]:
    folder = find_model(run.folder)
    count = sum(
        math.prod(tensor.shape)
        for name, part in folder.components.items()
        if name != "vae"
        for tensor in part.tensors().values()
    )
    cells = [f"{count / 1e6:.2f} M"]
    if "dit" not in folder.components:
        return [*cells, "-", "-", "-"]
    device = choose_device("auto")
    placed: dict[str, Any] = {"device": device, "dtype": choose_dtype("auto", device)}
    trust: dict[str, Any] = {"trust_code": trust_code}
    dit = folder.component("dit").build(**placed, **trust)
    crop = run.settings["data"]["init_args"]["crop"]
    for pixels in ((crop, crop), size):
        density = kept_density(dit, pixels)
        cells.append("-" if density is None else f"{density:.3f}")
    return [*cells, _chunk_milliseconds(folder, dit, size, placed, trust)]


def _chunk_milliseconds(
    folder: ModelFolder, dit: nn.Module, size: tuple[int, int], placed: dict[str, Any], trust: dict[str, Any]
) -> str:
    from flashvsr.bench import bench

    decoder = "decoder" if "decoder" in folder.components else "vae"
    if not isinstance(dit, VideoDiT) or dit.order != "block" or decoder not in folder.components:
        return "-"
    projection, decoding = (folder.component(name).build(**placed, **trust) for name in ("projection", decoder))
    prompt = None if folder.prompt is None else folder.prompt.to(**placed)
    system = FlashVSR(projection, dit, decoding, prompt, color="none").eval()
    with torch.inference_mode():
        return f"{bench(system, height=size[0], width=size[1], chunks=CHUNKS).chunk_ms:.0f}"


def _mean(values: Sequence[float | None], decimals: int) -> str:
    known = [float(value) for value in values if value is not None]
    if not known:
        return "-"
    around = half_width(known)
    return f"{fmean(known):.{decimals}f}" + ("" if around is None else f" ± {around:.{decimals}f}")
