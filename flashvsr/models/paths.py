"""What a stream of a system will run, in words."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from flashvsr.attention import LocalSparseAttention, choose_impl
from flashvsr.kernels import unavailable
from flashvsr.models.dit_state import MOST_TOKENS, RECORDABLE
from flashvsr.models.fp8 import Fp8Linear

if TYPE_CHECKING:
    from flashvsr.models.system import FlashVSR


def describe_paths(system: FlashVSR) -> dict[str, str]:
    """Say which path every operation of a system takes that has more than one, and why, by operation."""
    if not system.detail:
        convolutions = _path(system, "fused_convolution", "cudnn")
        return {"detail": "0: the decoder alone", "convolutions of tiny decoders": convolutions, **_places(system)}
    first = system.dit.blocks[0]
    attention: Any = first.self_attn
    impl, reason = getattr(attention, "impl", None), "as asked"
    if impl is None:
        impl, reason = type(attention).__name__, "of its own"
    elif impl == "auto":
        impl, reason = choose_impl(system.device, system.dtype, system.dit.head_dim, requires_grad=False)
    room = system.dit.cache_gib
    ours = isinstance(attention, LocalSparseAttention)
    plan = system.placement.plan
    away = plan is not None and plan.layers_away + plan.blocks_away > 0
    recorded = system.device.type == "cuda" and ours and impl in RECORDABLE and not away
    steady = "steady chunks" if system.dit.cuts else f"steady chunks of up to {MOST_TOKENS} tokens"
    if isinstance(first.ffn[0], Fp8Linear):
        linear = f"8-bit floats, {_path(system, 'fp8_product', 'fp8', first.ffn[0].impl)}"
        feed_forward = f"8-bit floats, GELU by {_path(system, 'quantize', 'triton')}"
    else:
        linear = str(system.dtype).removeprefix("torch.")
        feed_forward = _path(system, "fused_gelu", "fused", first.ffn.impl)
    return {
        "attention": f"{impl} ({reason})",
        **({"selection": _path(system, "select", "triton", attention.selection.impl)} if ours else {}),
        "norms": _path(system, "norm_rope", "triton"),
        "sums between layers": _path(system, "residual", "triton"),
        "linear layers": linear,
        "feed-forward networks": feed_forward,
        "convolutions of tiny decoders": _path(system, "fused_convolution", "cudnn"),
        "launches": f"{steady} as CUDA graphs" if recorded else "one by one",
        "keys and values": "on the device" if room in (None, inf) else f"{room:g} GiB on the device, then on the host",
        **({} if plan is None else {"memory": str(plan)}),
        **({} if system.detail == 1 else {"detail": f"latents times {system.detail:g}"}),
        **_places(system),
    }


def _places(system: FlashVSR) -> dict[str, str]:
    """What lies where, on several devices."""
    if not system.dit.cuts and len(system.devices) == 1:
        return {}
    blocks = (f"blocks {stage.first} to {stage.stop - 1} on {stage.device}" for stage in system.dit.stages())
    return {"devices": f"projection on {system.device}, {', '.join(blocks)}, decoder on {system.output_device}"}


def _path(system: FlashVSR, kernel: str, name: str, impl: str = "auto") -> str:
    """Which path of an operation runs, and why if it is not the kernel."""
    if impl != "auto":
        return f"{impl} (as asked)"
    reason = unavailable(kernel, system.device, system.dtype)
    return name if reason is None else f"plain ({reason})"
