"""Weights in host memory: the same frames, in any number, and a module that otherwise looks as it did."""

import pytest
import torch
from torch import nn

from flashvsr.models import LRProjection, VideoDiT
from flashvsr.models.host_blocks import HostBlocks, HostModule, packed_bytes

CPU = torch.device("cpu")


def _dit(layers: int = 5) -> VideoDiT:
    torch.manual_seed(0)
    return VideoDiT(32, layers, 2, 64, channels=4, text_dim=8).requires_grad_(False)


def _stream(dit: VideoDiT, device: torch.device = CPU) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents, prompt = (torch.randn(size, generator=generator).to(device) for size in ((1, 4, 10, 16, 16), (1, 3, 8)))
    timestep, state, out = torch.tensor([1000.0], device=device), None, []
    with torch.inference_mode():
        for chunk in (latents[:, :, :6], latents[:, :, 6:8], latents[:, :, 8:]):
            velocity, state = dit(chunk, timestep, prompt=prompt, state=state)
            out.append(velocity)
    return torch.cat(out, 2)


@pytest.mark.parametrize("away", [1, 2, 3, 5])
def test_blocks_in_host_memory_change_no_bit_of_a_stream(away):
    expected, dit = _stream(_dit()), _dit()
    dit.host_blocks = HostBlocks(dit.blocks, away, CPU)
    for _ in range(2):  # the second stream begins with what the first one left on the device
        assert torch.equal(_stream(dit), expected)


@pytest.mark.parametrize("away", [1, 2, 3, 5])
def test_every_block_finds_its_own_weights_in_memory_for_two(away):
    blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(5)).requires_grad_(False)
    own = [block.weight.clone() for block in blocks]
    host = HostBlocks(blocks, away, CPU)
    places = {place.data_ptr() for place in host._places}
    assert len(places) == min(2, away)
    lent = 0
    for index in [0, 1, 2, 3, 4] * 3 + [3, 1, 1, 4, 0]:  # in turn, and in any other order
        with host.lend(index):
            assert torch.equal(blocks[index].weight, own[index])
            lent += blocks[index].weight.data_ptr() in places
        assert torch.equal(blocks[index].weight, own[index])
        assert blocks[index].weight.data_ptr() not in places
    assert lent >= 3 * away


def test_weights_are_the_hosts_own_again_when_a_block_fails():
    blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2)).requires_grad_(False)
    host, own = HostBlocks(blocks, 2, CPU), blocks[0].weight.data_ptr()
    with pytest.raises(RuntimeError, match="out of memory"), host.lend(0):
        raise RuntimeError("out of memory")
    assert blocks[0].weight.data_ptr() == own


def test_the_model_keeps_the_names_the_values_and_the_order_in_memory_of_its_weights():
    dit = _dit()
    dit.blocks[0].self_attn.q.weight.data = dit.blocks[0].self_attn.q.weight.t().contiguous().t()
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    with pytest.raises(ValueError, match="differ in shape or dtype"):
        HostBlocks(dit.blocks, 5, CPU)
    for block in dit.blocks:
        block.self_attn.q.weight.data = block.self_attn.q.weight.t().contiguous().t()
    dit.host_blocks = HostBlocks(dit.blocks, 5, CPU)
    after = dit.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert dit.blocks[0].self_attn.q.weight.stride() == (1, 32)


def test_more_blocks_than_there_are_cannot_lie_in_host_memory():
    blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
    assert packed_bytes(blocks[0]) == 512
    for away in (0, 3):
        with pytest.raises(ValueError, match=f"1 to 2 lie in host memory, got {away}"):
            HostBlocks(blocks, away, CPU)


def test_a_module_in_host_memory_has_room_elsewhere_only_while_it_is_used():
    projection = LRProjection(hidden=(8, 12), dim=32).requires_grad_(False)
    lr = torch.rand(1, 3, 5, 32, 32)
    expected, _ = projection(lr)
    strides, host = projection.conv1.weight.stride(), HostModule(projection, CPU)
    own = projection.conv1.weight.data_ptr()
    with torch.inference_mode(), host.lend():
        assert projection.conv1.weight.data_ptr() != own
        assert projection.conv1.weight.stride() == strides  # which make it a Conv2d
        assert torch.equal(projection(lr)[0], expected)
    assert projection.conv1.weight.data_ptr() == own
    assert torch.equal(projection(lr)[0], expected)


@pytest.mark.gpu
@pytest.mark.parametrize("away", [1, 2, 5])
def test_blocks_in_pinned_memory_change_no_bit_on_a_gpu(away):
    device = torch.device("cuda", torch.cuda.current_device())
    expected, dit = _stream(_dit().to(device), device), _dit()
    for name, part in dit.named_children():
        if name != "blocks":
            part.to(device)
    dit.host_blocks = HostBlocks(dit.blocks, away, device)
    for _ in range(2):
        assert torch.equal(_stream(dit, device), expected)
    assert sum(block.modulation.device.type == "cpu" for block in dit.blocks) == away
