"""The flow schedule and the sampler: one step is a subtraction, a straight flow is followed exactly."""

from functools import partial

import pytest
import torch

from flashvsr.attention import FullAttention, LocalSparseAttention
from flashvsr.models import FlowSchedule, VideoDiT, sample_latents
from flashvsr.models.dit_blocks import linear_velocity

SCHEDULE = FlowSchedule()


def test_the_shift_keeps_the_ends_and_moves_the_middle_to_noise():
    sigma = SCHEDULE.sigma(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(sigma, torch.tensor([0.0, 5 / 6, 1.0]))
    assert FlowSchedule(1.0).sigma(torch.tensor(0.3)) == 0.3


def test_the_levels_of_a_sampler_fall_from_one_to_zero():
    levels = SCHEDULE.sigmas(7)
    assert levels.shape == (8,) and levels[0] == 1 and levels[-1] == 0 and bool((levels.diff() < 0).all())


def test_latents_come_back_from_noise_and_velocity_at_every_level():
    x0, noise = torch.randn(2, 3, 2, 4, 4), torch.randn(2, 3, 2, 4, 4)
    sigma = torch.tensor([0.2, 0.9])
    noisy = SCHEDULE.add_noise(x0, noise, sigma)
    torch.testing.assert_close(noisy[1], 0.1 * x0[1] + 0.9 * noise[1])
    torch.testing.assert_close(SCHEDULE.x0(noisy, noise - x0, sigma), x0)


def _dit(attention, **arguments) -> VideoDiT:
    torch.manual_seed(0)
    return VideoDiT(32, 2, 2, 64, channels=4, text_dim=None, attention=attention, **arguments)


def test_one_step_is_noise_minus_velocity():
    dit, noise, tokens = _dit(FullAttention), torch.randn(2, 4, 2, 4, 6), torch.randn(2, 12, 32)
    velocity, _ = dit(noise, torch.full((2,), 1000.0), lr_tokens=tokens, streaming=False)
    torch.testing.assert_close(sample_latents(dit, noise, tokens, steps=1, schedule=SCHEDULE), noise - velocity)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_any_number_of_steps_recovers_the_latents_of_a_straight_flow(steps):
    x0, noise = torch.randn(2, 4, 2, 4, 4), torch.randn(2, 4, 2, 4, 4)
    asked = []

    def flow(noisy, timestep, **arguments):
        asked.append(timestep[0].item())
        return noise - x0, None

    out = SCHEDULE.sample(flow, noise, None, steps=steps)
    torch.testing.assert_close(out, x0, rtol=0, atol=1e-5)
    assert len(asked) == steps and asked[0] == 1000


def gaussian_flow(std):
    """The exact velocity from normal latents of a given deviation to noise."""

    def flow(noisy, timestep, **arguments):
        sigma = timestep.view(-1, 1, 1, 1, 1).to(noisy) / 1000
        variance = sigma.square() + (1 - sigma).square() * std**2
        return (sigma - (1 - sigma) * std**2) / variance * noisy, None

    return flow


@pytest.mark.parametrize(
    ("shift", "solver", "kept"),
    [(1.0, "euler", 0.938), (1.0, "heun", 0.9986), (5.0, "euler", 0.880), (5.0, "heun", 0.963)],
)
def test_of_the_deviation_of_an_exact_flow_twenty_euler_steps_lose_6_percent_and_heun_steps_a_thousandth(
    shift, solver, kept
):
    noise = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    out = FlowSchedule(shift, solver).sample(gaussian_flow(1.0), noise, None, steps=20)
    assert out.item() == pytest.approx(kept, abs=5e-4)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_of_a_solver_falls_with_its_order(solver, order):
    """Along an exact velocity: twice the steps, a half or a quarter of the error; the flow leaves std * noise."""
    noise, errors = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64), []
    for steps in (64, 128):
        out = FlowSchedule(1.0, solver).sample(gaussian_flow(0.7), noise, None, steps=steps)
        errors.append((out - 0.7).abs().item())
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.1)


def test_one_step_of_heun_is_one_of_euler():
    noise = torch.randn(1, 4, 2, 4, 4)
    made = [
        FlowSchedule(solver=solver).sample(gaussian_flow(0.5), noise, None, steps=1) for solver in ("euler", "heun")
    ]
    assert torch.equal(*made)


def test_full_and_sparse_attention_sample_alike_when_the_mask_covers_all():
    cover = partial(LocalSparseAttention, sparse_ratio=50.0, rule="keep_all_when_covered", history=9)
    full, sparse = _dit(FullAttention), _dit(cover)
    sparse.load_state_dict(full.state_dict())
    noise, tokens = torch.randn(1, 4, 6, 16, 32), torch.randn(1, 6 * 8 * 16, 32)
    out = [sample_latents(dit, noise, tokens, steps=2, schedule=SCHEDULE) for dit in (full, sparse)]
    torch.testing.assert_close(out[0], out[1], rtol=0, atol=1e-4)
    short = _dit(partial(cover, sparse_ratio=0.03))  # and where it does not cover all, they differ
    short.load_state_dict(full.state_dict())
    assert (sample_latents(short, noise, tokens, steps=2, schedule=SCHEDULE) - out[0]).abs().max() > 1e-3


def test_steps_and_shifts_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        SCHEDULE.sigmas(0)
    with pytest.raises(ValueError, match="positive, got 0"):
        FlowSchedule(0)
    with pytest.raises(ValueError, match="one of euler, heun; got 'rk4'"):
        FlowSchedule(solver="rk4")


@pytest.mark.parametrize("attention", [LocalSparseAttention, partial(FullAttention, impl="sdpa")])
def test_activation_checkpointing_changes_no_number(attention):
    noise, tokens = torch.randn(1, 4, 4, 16, 16), torch.randn(1, 4 * 64, 32)
    results = []
    for on in (False, True):
        dit = _dit(attention, activation_checkpointing=on)
        velocity, _ = dit(noise, torch.tensor([500.0]), lr_tokens=tokens, streaming=False)
        velocity.square().mean().backward()
        results.append([velocity.detach(), *(parameter.grad for parameter in dit.parameters())])
    assert all(torch.equal(plain, again) for plain, again in zip(*results, strict=True))


def test_activation_checkpointing_keeps_less_for_the_backward_pass():
    kept = []
    for on in (False, True):
        dit, count = _dit(partial(FullAttention, impl="sdpa"), activation_checkpointing=on), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, count=count: count.append(x.numel()) or x, lambda x: x):
            packed = dit.forward_packed([torch.randn(4, 2, 8, 8)], torch.tensor([500.0]), [torch.randn(32, 32)])
        packed[0].mean().backward()
        kept.append(sum(count))
    assert kept[1] < kept[0] / 2


def test_the_best_multiple_of_a_noisy_sample_is_that_of_least_squares():
    x0, noise = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0))
    for sigma in (0.0, 0.3, 0.5, 0.9, 1.0):
        noisy = (1 - sigma) * x0 + sigma * noise
        best = (noisy @ (noise - x0)) / (noisy @ noisy)
        assert linear_velocity(torch.tensor(sigma)) == pytest.approx(best.item(), abs=0.02)


@torch.no_grad()
def test_a_preconditioned_network_that_says_nothing_gives_no_noise_from_pure_noise():
    plain, preconditioned = _dit(FullAttention), _dit(FullAttention, preconditioned=True)
    noise, tokens, timestep = torch.randn(2, 4, 2, 4, 6), torch.randn(2, 12, 32), torch.tensor([1000.0, 300.0])
    arguments = {"lr_tokens": tokens, "streaming": False}
    difference = preconditioned(noise, timestep, **arguments)[0] - plain(noise, timestep, **arguments)[0]
    torch.testing.assert_close(difference[0], noise[0])
    torch.testing.assert_close(difference[1], linear_velocity(torch.tensor(0.3)) * noise[1])
    packed = preconditioned.forward_packed(list(noise), timestep, list(tokens))
    torch.testing.assert_close(torch.stack(packed), preconditioned(noise, timestep, **arguments)[0])
    preconditioned.head.head.weight.zero_(), preconditioned.head.head.bias.zero_()
    assert sample_latents(preconditioned, noise, tokens, steps=1, schedule=SCHEDULE).abs().max() == 0
