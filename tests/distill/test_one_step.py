"""The one-step objective: what is generated, decoded and weighed, with networks as arguments."""

from random import Random

import pytest
import torch
from torch import nn

from flashvsr.distill import OneStepObjective, ReconstructionLoss, decode_window, draw_history, draw_window
from flashvsr.distill.one_step import Window
from flashvsr.models import FlowSchedule
from tests.distill.toy_stages import CHANNELS, batch, toy_decoder

SHAPE = (1, CHANNELS, 4, 16, 16)


def _objective(**arguments) -> OneStepObjective:
    return OneStepObjective(FlowSchedule(), ReconstructionLoss(), **arguments)


def test_one_step_is_noise_minus_velocity_at_timestep_1000():
    noise = torch.randn(2, 4, 2, 4, 4)
    x = _objective().generate(lambda noisy, t: noisy.sin() + (t - 1000).view(-1, 1, 1, 1, 1), noise)
    torch.testing.assert_close(x, noise - noise.sin())


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_window_decodes_to_its_part_of_the_whole_clip(start):
    torch.manual_seed(0)
    decoder, latents, lr = toy_decoder(), torch.randn(SHAPE), torch.randn(1, 3, 13, 128, 128)
    whole, _ = decoder(latents, lr, None)
    window = Window(start, 2, 0, 0, 16, 16)
    part = decode_window(decoder, latents, lr, window)
    torch.testing.assert_close(part, whole[:, :, window.frames])
    assert part.shape[2] == (5 if start == 0 else 8)


def test_only_latents_of_the_window_get_a_gradient():
    latents = torch.randn(SHAPE, requires_grad=True)
    decode_window(toy_decoder(), latents, torch.randn(1, 3, 13, 128, 128), Window(1, 2, 4, 0, 8, 16)).sum().backward()
    reached = latents.grad.abs().sum((0, 1)) > 0  # [T, h, w]
    assert reached.any(2).any(1).tolist() == [False, True, True, False]
    assert reached.any(0).any(1).tolist() == [False] * 4 + [True] * 8 + [False] * 4


def test_every_window_is_drawn_and_lies_inside():
    windows = [draw_window(Random(seed), SHAPE, 2, 6) for seed in range(300)]
    assert {window.start for window in windows} == {0, 1, 2}
    assert {window.top for window in windows} == {window.left for window in windows} == set(range(11))
    assert draw_window(Random(0), SHAPE, 9, 99) == Window(0, 4, 0, 0, 16, 16)


def test_the_frames_of_a_window_meet_their_own_truth_and_frame_0_weighs_four_times():
    hr = batch([0])["hr"][:, :, :13]
    for start, factor in ((0, 4.0), (1, 1.0)):
        window = Window(start, 2, 4, 4, 8, 8)
        sr = hr[:, :, window.frames, 32:96, 32:96]
        loss, parts = _objective().reconstruction_loss(sr, hr, window)
        torch.testing.assert_close(parts["charbonnier"], torch.tensor([1e-3]))  # no difference at all
        torch.testing.assert_close(loss, factor * parts["charbonnier"])


def test_noise_levels_of_the_scores_stay_in_their_range_and_differ_by_sample_and_use():
    objective = _objective(sigma_range=(0.3, 0.7))
    levels = objective.noise_level(torch.arange(500), "dmd", 0)
    assert levels.min() >= 0.3 and levels.max() <= 0.7 and levels.unique().numel() > 20
    assert not torch.equal(levels, objective.noise_level(torch.arange(500), "fake", 0))


def test_the_fake_loss_reaches_the_fake_score_and_not_the_generator():
    x, net = torch.randn(1, CHANNELS, 2, 4, 4, requires_grad=True), nn.Conv3d(CHANNELS, CHANNELS, 1)
    _objective().fake_loss(x, lambda noisy, t: net(noisy), torch.tensor([1]), 0).sum().backward()
    assert x.grad is None and net.weight.grad.abs().sum() > 0


def test_a_toy_generator_halves_the_loss_on_one_batch_within_100_steps():
    torch.manual_seed(0)
    objective, decoder = _objective(), nn.Conv3d(CHANNELS, 3, 1)
    noise, truth = torch.randn(1, CHANNELS, 1, 8, 8), torch.rand(1, 3, 1, 64, 64)
    generator = nn.Sequential(nn.Conv3d(CHANNELS, 32, 3, padding=1), nn.GELU(), nn.Conv3d(32, CHANNELS, 3, padding=1))
    optimizer = torch.optim.Adam([*generator.parameters(), *decoder.parameters()], 0.01)

    def decode(latents, lr, state):
        return nn.functional.interpolate(decoder(latents), scale_factor=(1, 8, 8)), None

    losses = []
    for _ in range(100):
        x = objective.generate(lambda noisy, t: generator(noisy), noise)
        sr, window = objective.decode(decode, x, truth, Random(0))
        loss = objective.reconstruction_loss(sr, truth * 0 + 0.5, window)[0].mean() + objective.latent_loss(x, 0 * x)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_histories_come_in_the_released_proportions():
    drawn = [draw_history(Random(seed), 11) for seed in range(4000)]
    share = {history: drawn.count(history) / len(drawn) for history in set(drawn)}
    assert set(share) == {11, 8, 7, 9}
    for history, expected in ((11, 0.5), (8, 0.3), (7, 0.1), (9, 0.1)):
        assert abs(share[history] - expected) < 0.03
    assert min(draw_history(Random(seed), 2) for seed in range(50)) == 1


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"0 < low < high < 1, got \(0.5, 0.5\)"):
        _objective(sigma_range=(0.5, 0.5))
    with pytest.raises(ValueError, match="count from 1, got 0"):
        _objective(decoded_latents=0)
