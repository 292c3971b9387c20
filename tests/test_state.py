"""A state that a call has taken can be neither used, copied nor saved: every class of states."""

import importlib
import pkgutil

import pytest
import torch

import flashvsr
from flashvsr.attention import KVCache
from flashvsr.decoders import TinyDecoderState, TinyEncoderState, WanVAEState
from flashvsr.models.dit_state import DiTState
from flashvsr.models.lr_projection import LRProjectionState
from flashvsr.models.system import SystemState
from flashvsr.state import ConsumableState


def _dit_state() -> DiTState:
    cache = KVCache(1, 1, 128, 1, 4)
    for ring in (cache.keys, cache.values, cache.key_means):  # which are not filled yet
        ring.zero_()
    return DiTState(cache, 2, [(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))])


def _decoder_state() -> TinyDecoderState:
    return TinyDecoderState([torch.zeros(1, 2, 4, 4) for _ in range(9)])


def _projection_state() -> LRProjectionState:
    return LRProjectionState(torch.zeros(1, 2, 4, 4, 3), torch.zeros(1, 2, 4, 4, 8))


MADE = {
    TinyDecoderState: _decoder_state,
    TinyEncoderState: lambda: TinyEncoderState([torch.zeros(1, 2, 4, 4)]),
    WanVAEState: lambda: WanVAEState({"decoder.conv1": (torch.zeros(1, 2, 4, 4),)}),
    LRProjectionState: _projection_state,
    DiTState: _dit_state,
    SystemState: lambda: SystemState(_projection_state(), _dit_state(), _decoder_state(), torch.zeros(1, 3, 4, 8, 8)),
}


def _tensors(value) -> list[torch.Tensor]:
    """All tensors in a state, except those of a prompt, which no chunk writes to."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    if isinstance(value, ConsumableState | KVCache | dict):
        parts = value if isinstance(value, dict) else vars(value)
        return [tensor for name, part in parts.items() if name != "context" for tensor in _tensors(part)]
    return []


def test_every_class_of_states_is_tried_here():
    for module in pkgutil.walk_packages(flashvsr.__path__, "flashvsr."):
        if module.name.split(".")[1] in ("decoders", "models", "streaming") and not module.name.endswith(".lit"):
            importlib.import_module(module.name)
    ours = {kind for kind in ConsumableState.__subclasses__() if kind.__module__.startswith("flashvsr.")}
    assert set(MADE) == ours


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_a_state_moves_as_a_whole_or_not_at_all(kind):
    state, meta = MADE[kind](), torch.device("meta")
    if kind in (DiTState, SystemState):
        with pytest.raises(TypeError, match="a KVCache in a state cannot be moved to meta"):
            state.move(meta)
        return
    moved = state.move(meta)
    assert state.consumed and not moved.consumed
    assert {tensor.device for tensor in _tensors(moved)} == {meta}


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_a_consumed_state_holds_nothing_and_refuses_every_use(kind):
    state = MADE[kind]()
    held = len(_tensors(state))
    taken = state.take()
    assert state.consumed and not _tensors(state)
    assert not taken.consumed and len(_tensors(taken)) == held > 0
    for use in ("take", "clone", "check_fresh", "state_dict"):
        if hasattr(state, use):
            with pytest.raises(RuntimeError, match=rf"this {kind.__name__} was consumed.*clone\(\) before"):
                getattr(state, use)()


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.__name__)
def test_a_clone_shares_no_memory_with_its_state_and_outlives_it(kind):
    state = MADE[kind]()
    other = state.clone()
    assert type(other) is kind
    for tensor in _tensors(state):
        tensor.fill_(1.0)
    assert not any(tensor.any() for tensor in _tensors(other))
    state.take()
    other.take()
