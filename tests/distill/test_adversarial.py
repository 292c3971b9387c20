"""The adversarial term: what the losses are, and that the discriminator learns from them."""

from __future__ import annotations

import pytest
import torch

from flashvsr.distill import (
    FeatureDiscriminator,
    PatchDiscriminator,
    hinge_discriminator_loss,
    hinge_generator_loss,
)


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


def _pyramid(pictures):
    """Features of two layers, at a half and a quarter of the size."""
    half = torch.nn.functional.avg_pool2d(pictures, 2)
    return [torch.cat((half, half.square()), 1), torch.nn.functional.avg_pool2d(half, 2)]


def test_every_layer_of_features_gives_as_many_scores_and_frames_between_are_passed_over():
    torch.manual_seed(0)
    network = FeatureDiscriminator(_pyramid, [6, 3], width=4, every=3)
    frames = torch.rand(2, 3, 7, 16, 24, requires_grad=True)
    scores = network(frames * 2 - 1)
    assert scores.shape == (2, 3 * 2 * 4 * 6)  # frames 0, 3 and 6, two layers
    scores.sum().backward()
    assert frames.grad.abs().sum((0, 1, 3, 4)).bool().tolist() == [True, False, False, True, False, False, True]
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(name.startswith("heads.") for name in network.state_dict())


def test_a_discriminator_of_features_tells_blurred_pictures_from_sharp_ones_within_60_steps():
    torch.manual_seed(0)
    network = FeatureDiscriminator(lambda x: [10 * (x - torch.nn.functional.avg_pool2d(x, 3, 1, 1))], [3], width=8)
    real = torch.rand(4, 3, 2, 16, 16) * 2 - 1
    fake = torch.nn.functional.avg_pool3d(real, (1, 3, 3), 1, (0, 1, 1))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    losses = []
    for _ in range(60):
        loss = hinge_discriminator_loss(network(real), network(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_features_of_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"the features have \[6, 3\] channels, expected \[6, 4\]"):
        FeatureDiscriminator(_pyramid, [6, 4])(torch.zeros(1, 3, 1, 16, 16))
    with pytest.raises(ValueError, match="width=0"):
        FeatureDiscriminator(_pyramid, [6, 3], width=0)
