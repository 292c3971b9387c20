"""The rate of each tensor, and the learning rate by steps, and by time where a limit of time ends the run."""

import pytest
import torch
from torch import nn

from flashvsr.training import FanInAdamW, WarmupCosine
from flashvsr.training import optimizers as module


class Clock:
    """`time` of a moment that tests choose."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def schedule(**arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    return WarmupCosine(optimizer, **arguments)


def rates(made, steps, clock=None, seconds=0.0):
    seen = []
    for _ in range(steps):
        seen.append(made.get_last_lr()[0])
        made.optimizer.step()
        if clock is not None:
            clock.now += seconds
        made.step()
    return seen


def test_the_rate_rises_in_a_line_falls_along_a_cosine_and_stays_at_the_floor():
    seen = rates(schedule(steps=10, warmup=2, floor=0.1), 13)
    assert seen[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert seen[6] == pytest.approx(2 * 0.55)  # the middle
    assert seen[10:] == pytest.approx([0.2, 0.2, 0.2])


def test_time_ends_the_cosine_when_it_comes_before_the_steps(clock):
    seen = rates(schedule(steps=1000, seconds=10.0), 12, clock, seconds=1.0)
    assert seen[5] == pytest.approx(1.0)
    assert seen[10:] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_steps_end_the_cosine_when_they_come_before_the_time(clock):
    assert rates(schedule(steps=10, seconds=1e6), 12, clock, seconds=1.0) == pytest.approx(
        rates(schedule(steps=10), 12)
    )


def test_the_time_before_a_resume_counts_and_that_between_does_not(clock):
    first = schedule(steps=1000, seconds=10.0)
    rates(first, 4, clock, seconds=1.0)
    saved = first.state_dict()
    clock.now += 500
    second = schedule(steps=1000, seconds=10.0)
    clock.now += 500
    second.load_state_dict(saved)
    assert rates(second, 6, clock, seconds=1.0)[1] == pytest.approx(1.0)  # the fifth second
    assert second.get_last_lr()[0] == pytest.approx(0.0, abs=1e-9)


def test_arguments_that_make_no_sense_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="got 5 and 5"):
        schedule(steps=5, warmup=5)
    with pytest.raises(ValueError, match="got 0"):
        schedule(steps=5, seconds=0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(ValueError, match="different rates"):
        schedule(steps=5, seconds=1.0)


def test_the_first_step_moves_the_output_of_every_layer_alike():
    torch.manual_seed(0)
    for fan_in in (64, 256, 4096):
        layer = nn.Linear(fan_in, 1, bias=False)
        optimizer = FanInAdamW(layer.parameters(), lr=1e-3, weight_decay=0.0, base_fan_in=64)
        x = torch.rand(1, fan_in) + 0.5
        before = layer(x)
        before.sum().backward()
        optimizer.step()
        assert (before - layer(x)).item() == pytest.approx(1e-3 * 64, rel=0.1)


def test_vectors_and_small_fan_ins_keep_the_rate_and_schedules_scale_all():
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(64, 8, 3))
    optimizer = FanInAdamW(network.parameters(), lr=2e-3)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([2e-3 * 144 / 576, 2e-3])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    WarmupCosine(optimizer, steps=10, warmup=1)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([1e-3 * 144 / 576, 1e-3])
    with pytest.raises(ValueError, match="base_fan_in counts inputs from 1, got 0"):
        FanInAdamW(network.parameters(), base_fan_in=0)


def test_the_modulation_of_a_transformer_block_keeps_the_full_rate():
    block = nn.Module()
    block.modulation, block.ffn = nn.Parameter(torch.zeros(1, 6, 256)), nn.Linear(256, 8, bias=False)
    optimizer = FanInAdamW(block.parameters(), lr=1e-3)
    rates = {tuple(p.shape): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[1, 6, 256] == 1e-3
    assert rates[8, 256] == pytest.approx(1e-3 * 144 / 256)
