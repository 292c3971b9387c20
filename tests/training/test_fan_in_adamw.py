import pytest
import torch
from torch import nn

from flashvsr.training import FanInAdamW, WarmupCosine


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
