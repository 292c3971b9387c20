"""What a tiny decoder keeps between two calls of a stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashvsr.state import ConsumableState

MEMORY_BLOCKS = ("5", "6", "7", "11", "12", "13", "17", "18", "19")
"""Indices of the layers that look back in time."""


@dataclass
class TinyDecoderState(ConsumableState):
    """What a tiny decoder remembers between two calls of one stream.

    Attributes:
        past: The last input of each of the nine memory blocks, `[B, C, h, w]`, in network order.
    """

    past: list[Tensor]

    def state_dict(self) -> dict[str, Tensor]:
        """CPU copies of the feature maps under the keys ``past.0`` to ``past.8``.

        Raises:
            RuntimeError: If the state was consumed before.
        """
        self.check_fresh()
        return {f"past.{index}": tensor.detach().to("cpu", copy=True) for index, tensor in enumerate(self.past)}

    @classmethod
    def from_state_dict(cls, saved: dict[str, Tensor]) -> TinyDecoderState:
        """The state that :meth:`state_dict` saved; it continues on the device and in the dtype of the tensors.

        Raises:
            ValueError: If the keys are not those that :meth:`state_dict` writes.
        """
        expected = [f"past.{index}" for index in range(len(MEMORY_BLOCKS))]
        if sorted(saved) != expected:
            raise ValueError(
                f"a tiny decoder state has the tensors past.0 to past.{len(MEMORY_BLOCKS) - 1}, got {sorted(saved)}"
            )
        return cls([saved[key].clone(memory_format=torch.channels_last) for key in expected])
