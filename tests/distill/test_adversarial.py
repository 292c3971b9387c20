"""The adversarial term: what the losses are, and that the discriminator learns from them."""

from __future__ import annotations

import torch

from flashvsr.distill import PatchDiscriminator, hinge_discriminator_loss, hinge_generator_loss


def test_the_losses_are_hinges_per_sample():
    real, fake = torch.tensor([[2.0, 0.0], [-1.0, 1.0]]), torch.tensor([[-2.0, 0.5], [0.0, -1.0]])
    assert hinge_discriminator_loss(real, fake).tolist() == [0.5 + 0.75, 1.0 + 0.5]
    assert hinge_generator_loss(fake).tolist() == [0.75, 0.5]


def test_a_score_sees_46_pixels_of_its_own_frame():
    torch.manual_seed(0)
    network = PatchDiscriminator(4).eval()
    frames = torch.randn(1, 3, 2, 64, 64, requires_grad=True)
    scores = network(frames)
    assert scores.shape == (1, 2 * 7 * 7)
    scores[0, 3 * 7 + 3].backward()  # the middle of frame 0
    seen = frames.grad[0].abs().sum(0) > 0
    assert not seen[1].any()
    assert seen[0].any(0).sum() == 46 and seen[0].any(1).sum() == 46


def test_a_discriminator_halves_its_loss_within_100_steps_and_a_generator_then_follows_it():
    torch.manual_seed(0)
    network = PatchDiscriminator(4)
    real, fake = torch.rand(2, 3, 1, 32, 32), torch.nn.Parameter(torch.rand(2, 3, 1, 32, 32) * 0.3)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(100):
        loss = hinge_discriminator_loss(network(real), network(fake.detach())).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    optimizer = torch.optim.Adam([fake], 0.02)
    network.eval()
    losses = []
    for _ in range(100):
        loss = hinge_generator_loss(network(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0 > losses[-1]
