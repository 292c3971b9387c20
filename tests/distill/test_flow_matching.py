"""The flow matching objective."""

import torch
from torch import nn

from flashvsr.distill import flow_matching_loss, packed_flow_matching_loss
from flashvsr.models import FlowSchedule

SCHEDULE = FlowSchedule()


def _samples(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(batch, 4, 2, 4, 4, generator=generator) for _ in range(2))
    return x0, noise, torch.linspace(0.3, 0.9, batch)


def test_the_loss_is_zero_for_the_velocity_and_its_mean_square_for_zero():
    x0, noise, sigma = _samples()
    assert flow_matching_loss(lambda *_: noise - x0, x0, noise, sigma, SCHEDULE).abs().max() == 0
    expected = (noise - x0).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(flow_matching_loss(lambda noisy, t: 0 * noisy, x0, noise, sigma, SCHEDULE), expected)


def test_the_network_sees_each_sample_at_its_own_level():
    x0, noise, sigma = _samples()

    def predict(noisy, timestep):
        assert torch.equal(timestep, 1000 * sigma)
        torch.testing.assert_close(noisy[0], (1 - sigma[0]) * x0[0] + sigma[0] * noise[0])
        torch.testing.assert_close(noisy[1], (1 - sigma[1]) * x0[1] + sigma[1] * noise[1])
        return noisy

    assert flow_matching_loss(predict, x0, noise, sigma, SCHEDULE).shape == (2,)


def test_a_batch_of_two_equals_two_batches_of_one_and_packing_equals_both():
    x0, noise, sigma = _samples()
    together = flow_matching_loss(lambda noisy, t: noisy.tanh(), x0, noise, sigma, SCHEDULE)
    for index in range(2):
        one = slice(index, index + 1)
        alone = flow_matching_loss(lambda noisy, t: noisy.tanh(), x0[one], noise[one], sigma[one], SCHEDULE)
        torch.testing.assert_close(alone[0], together[index])
    packed = packed_flow_matching_loss(
        lambda noisy, t: [part.tanh() for part in noisy], x0.unbind(), noise.unbind(), sigma, SCHEDULE
    )
    torch.testing.assert_close(packed, together)


def test_every_packed_sample_counts_alike_whatever_its_size():
    x0 = [torch.zeros(4, 1, 2, 2), torch.zeros(4, 5, 8, 8)]
    losses = packed_flow_matching_loss(
        lambda noisy, t: [0 * part for part in noisy], x0, [part + 2 for part in x0], torch.ones(2), SCHEDULE
    )
    assert losses.tolist() == [4, 4]


def test_a_toy_network_halves_the_loss_within_100_steps():
    torch.manual_seed(0)
    x0, noise, sigma = _samples()
    net = nn.Conv3d(4, 4, 3, padding=1)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    losses = []
    for _ in range(100):
        loss = flow_matching_loss(lambda noisy, t: net(noisy), x0, noise, sigma, SCHEDULE).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_losses_of_bf16_latents_are_fp32():
    x0, noise, sigma = _samples()
    loss = flow_matching_loss(lambda noisy, t: noisy.bfloat16(), x0.bfloat16(), noise, sigma, SCHEDULE)
    assert loss.dtype == torch.float32
