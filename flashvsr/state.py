"""What a stream keeps between two calls: a state that is consumed when it is passed in."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor


@dataclass
class ConsumableState:
    """Base of the states of streams: a dataclass whose buffers the next state may reuse.

    A state passed to a model is consumed: go on with the one that the call returns, or branch with :meth:`clone` before
    the call. A subclass is a dataclass of tensors, numbers, other states, and lists, tuples and dicts of them.

    Attributes:
        consumed: True once a call has taken the state; it holds nothing then.
    """

    consumed: bool = field(default=False, init=False, repr=False, kw_only=True)

    def take(self) -> Self:
        """Hand the contents over and mark this state as consumed.

        Returns:
            A state with the contents. This one keeps none, so memory is freed as soon as the new owner drops it.

        Raises:
            RuntimeError: If the state was consumed before.
        """
        self.check_fresh()
        taken = copy(self)
        for part in fields(self):
            setattr(self, part.name, None)
        self.consumed = True
        return taken

    def clone(self) -> Self:
        """Return an independent copy, to branch a stream.

        Raises:
            RuntimeError: If the state was consumed before.
        """
        self.check_fresh()
        other = copy(self)
        for part in fields(self):
            setattr(other, part.name, _cloned(getattr(self, part.name)))
        return other

    def move(self, device: torch.device) -> Self:
        """Take the contents to a device, tensors that are there already as they are; this state is consumed.

        Raises:
            RuntimeError: If the state was consumed before.
            TypeError: If it holds what cannot be moved, such as a cache of keys and values.
        """
        other = self.take()
        for part in fields(other):
            setattr(other, part.name, _moved(getattr(other, part.name), device))
        return other

    def check_fresh(self) -> None:
        """Refuse a consumed state.

        Raises:
            RuntimeError: If the state was consumed.
        """
        if self.consumed:
            raise RuntimeError(
                f"this {type(self).__name__} was consumed by an earlier call: go on with the state which that call "
                "returned, or branch with clone() before a call"
            )


def _moved(value: Any, device: torch.device) -> Any:
    """`value` with its tensors on a device."""
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(part, device) for part in value)
    if isinstance(value, ConsumableState):
        return value.move(device)
    if isinstance(value, Tensor):
        return value.to(device)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a {type(value).__name__} in a state cannot be moved to {device}")


def _cloned(value: Any) -> Any:
    """A copy that shares no tensor with `value`."""
    if isinstance(value, dict):
        return {key: _cloned(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cloned(part) for part in value)
    return value.clone() if isinstance(value, Tensor) or hasattr(value, "clone") else value
