"""Distribution matching: the gradient is the formula, per sample, and goes to the generated latents only."""

import pytest
import torch
from torch import nn

from flashvsr.distill import dmd_loss, flow_matching_loss
from flashvsr.models import FlowSchedule

SCHEDULE = FlowSchedule()


def _case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, nn.Module, nn.Module]:
    torch.manual_seed(0)
    x, noise = (torch.randn(2, 4, 2, 4, 4, dtype=torch.float64) for _ in range(2))
    real, fake = (nn.Conv3d(4, 4, 3, padding=1).double() for _ in range(2))
    return x, noise, torch.tensor([0.3, 0.8], dtype=torch.float64), real, fake


def _loss(x, noise, sigma, real, fake):
    return dmd_loss(x, lambda y, t: real(y), lambda y, t: fake(y), noise, sigma, SCHEDULE)


def test_the_gradient_is_the_formula_in_fp64():
    x, noise, sigma, real, fake = _case()
    x.requires_grad_()
    _loss(x, noise, sigma, real, fake).sum().backward()
    level = sigma.view(2, 1, 1, 1, 1)
    noisy = (1 - level) * x + level * noise
    p_real = x - (noisy - level * real(noisy))  # the notation of DMD2: what the score would take away
    p_fake = x - (noisy - level * fake(noisy))
    expected = (p_real - p_fake) / p_real.abs().mean((1, 2, 3, 4), keepdim=True) / x[0].numel()
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=1e-15)


def test_the_scores_get_no_gradient_and_see_the_same_noisy_latents():
    x, noise, sigma, real, fake = _case()
    seen = []

    def watch(net):
        return lambda y, t: seen.append((y, t)) or net(y)

    dmd_loss(x.requires_grad_(), watch(real), watch(fake), noise, sigma, SCHEDULE).sum().backward()
    assert torch.equal(seen[0][0], seen[1][0]) and torch.equal(seen[0][1], seen[1][1])
    assert all(parameter.grad is None for net in (real, fake) for parameter in net.parameters())


def test_a_batch_of_two_equals_two_batches_of_one():
    x, noise, sigma, real, fake = _case()
    x = x * torch.tensor([1.0, 100.0], dtype=torch.float64).view(2, 1, 1, 1, 1)  # a joint normaliser would mix them
    together = x.clone().requires_grad_()
    loss = _loss(together, noise, sigma, real, fake)
    loss.sum().backward()
    for index in range(2):
        one = slice(index, index + 1)
        alone = x[one].clone().requires_grad_()
        single = _loss(alone, noise[one], sigma[one], real, fake)
        single.sum().backward()
        torch.testing.assert_close(single[0], loss[index])
        torch.testing.assert_close(alone.grad[0], together.grad[index])


def test_equal_scores_do_not_move_the_generator_even_where_both_are_exact():
    x, noise, sigma, real, _ = _case()
    x.requires_grad_()
    _loss(x, noise, sigma, real, real).sum().backward()
    assert x.grad.abs().max() == 0
    exact = dmd_loss(x, lambda y, t: noise - x, lambda y, t: noise - x, noise, sigma, SCHEDULE)
    assert torch.isfinite(exact).all()


def test_latents_reach_the_real_distribution_within_100_steps():
    """The loss itself is normalised and does not fall: what must halve is the distance to what the teacher expects."""
    x, noise, sigma, _, _ = _case()
    target = torch.randn_like(x)
    x = nn.Parameter(x)
    optimizer = torch.optim.Adam([x], 0.05)
    start = (x - target).square().mean().item()
    for _ in range(100):
        optimizer.zero_grad()
        level = sigma.view(2, 1, 1, 1, 1)
        dmd_loss(
            x,
            lambda y, t: (y - target) / level,  # noqa: B023
            lambda y, t: (y - x) / level,  # noqa: B023
            noise,
            sigma,
            SCHEDULE,
        ).sum().backward()
        optimizer.step()
    assert (x - target).square().mean().item() < start / 2


def _velocity_to(mean, variance):
    """The exact velocity for latents of a normal distribution."""

    def predict(noisy, timestep):
        sigma = (timestep / 1000).view(-1, 1, 1, 1, 1)
        gain = variance * (1 - sigma) / ((1 - sigma) ** 2 * variance + sigma**2)
        return (noisy - mean - gain * (noisy - (1 - sigma) * mean)) / sigma

    return predict


def test_a_generator_and_a_fake_score_that_learns_from_it_reach_the_real_distribution():
    torch.manual_seed(0)
    spread, mean = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))
    fake_mean, fake_log = nn.Parameter(torch.tensor(-1.0)), nn.Parameter(torch.tensor(0.0))
    generator, fake = torch.optim.Adam([spread, mean], 0.03), torch.optim.Adam([fake_mean, fake_log], 0.06)
    real = _velocity_to(torch.tensor(2.0), torch.tensor(0.09))
    for step in range(900):
        x = spread * torch.randn(32, 1, 1, 8, 8) + mean
        sigma = SCHEDULE.sigma(torch.rand(2, 32)).clamp(0.02, 0.98)
        if step % 3 == 0:
            guess = _velocity_to(fake_mean.detach(), fake_log.detach().exp())
            generator.zero_grad()
            dmd_loss(x, real, guess, torch.randn_like(x), sigma[0], SCHEDULE).mean().backward()
            generator.step()
        fake.zero_grad()
        guess = _velocity_to(fake_mean, fake_log.exp())
        flow_matching_loss(guess, x.detach(), torch.randn_like(x), sigma[1], SCHEDULE).mean().backward()
        fake.step()
    assert mean.item() == pytest.approx(2.0, abs=0.1)
    assert abs(spread.item()) == pytest.approx(0.3, abs=0.05)


def test_the_loss_of_bf16_latents_is_fp32_and_their_gradient_bf16():
    x, noise, sigma, real, fake = _case()
    x = x.bfloat16().requires_grad_()
    loss = _loss(x, noise.float(), sigma.float(), real.bfloat16(), fake.bfloat16())
    loss.sum().backward()
    assert loss.dtype == torch.float32 and x.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sigma": torch.tensor([0.5, 1.5])}, ValueError, r"in \[0, 1\], got \[0.5, 1.5\]"),
        ({"sigma": torch.tensor([0.5])}, ValueError, r"sigma \[2\], one level per sample; got .* and \[1\]"),
        ({"sigma": 0.5}, TypeError, "sigma is a tensor .*; got 0.5"),
        ({"noise": torch.zeros(1, 4, 2, 4, 4)}, ValueError, r"noise is \[2, 4, 2, 4, 4\] like x"),
        ({"real": lambda y: y[:1]}, ValueError, r"real_score returned \[1, 4, 2, 4, 4\] for latents"),
        ({"fake": lambda y: y[:1]}, ValueError, r"fake_score returned \[1, 4, 2, 4, 4\] for latents"),
    ],
)
def test_levels_and_batches_that_do_not_fit_are_refused_and_not_broadcast(change, error, message):
    case = dict(zip(("x", "noise", "sigma", "real", "fake"), _case(), strict=True))
    with pytest.raises(error, match=message):
        _loss(**{**case, **change})
