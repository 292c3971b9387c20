"""The past of one stream through all parts of a system."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flashvsr.models.dit_state import DiTState
from flashvsr.state import ConsumableState


@dataclass
class SystemState(ConsumableState):
    """The past of one stream, of all parts of :class:`FlashVSR`.

    Attributes:
        projection: State of the LR projection; None after a chunk with a detail of 0.
        dit: State of the transformer; None likewise.
        decoder: State of the decoder.
        lr: LR frames that the projection has seen and the decoder has not, `[B, 3, 4, H, W]`.
        queued: On several GPUs, an event of each chunk that is not computed yet.
    """

    projection: Any
    dit: DiTState | None
    decoder: Any
    lr: Tensor
    queued: list[Any] = field(default_factory=list, repr=False)

    def state_dict(self) -> dict[str, Any]:
        """Copy out as nested dicts of CPU tensors and numbers.

        Raises:
            RuntimeError: If the state was consumed before.
        """
        self.check_fresh()
        return {
            "projection": None if self.dit is None else self.projection.state_dict(),
            "dit": None if self.dit is None else self.dit.state_dict(),
            "decoder": self.decoder.state_dict(),
            "lr": self.lr.to("cpu", copy=True),
        }


def copy_to(saved: Any, device: torch.device) -> Any:
    """Copy nested dicts and lists with their tensors, to a device."""
    if isinstance(saved, Tensor):
        return saved.to(device, copy=True)
    if isinstance(saved, dict):
        return {key: copy_to(value, device) for key, value in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(copy_to(value, device) for value in saved)
    return saved
