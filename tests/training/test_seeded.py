"""Random numbers that are a function of the seed of a sample, of their use and of the step."""

import pytest
import torch

from flashvsr.training import seeded_normal, seeded_uniform


def test_seeded_normals_are_normal_and_uncorrelated():
    x = seeded_normal(torch.tensor([5]), "test", size=(200_000,))[0].double()
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01 and abs((x**4).mean() - 3) < 0.1
    for lag in (1, 2, 64):
        assert abs((x[lag:] * x[:-lag]).mean()) < 0.01
    u = seeded_uniform(torch.arange(100_000), "test").double()
    assert u.min() > 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002


def test_random_numbers_depend_on_seed_use_and_step_but_not_on_the_batch():
    draw = seeded_normal(torch.tensor([7, 8]), "noise", size=(4, 5))
    assert torch.equal(seeded_normal(torch.tensor([8]), "noise", size=(4, 5))[0], draw[1])
    for other in (
        seeded_normal(torch.tensor([9]), "noise", size=(20,)),
        seeded_normal(torch.tensor([8]), "other", size=(20,)),
        seeded_normal(torch.tensor([8]), "noise", 1, size=(20,)),
        seeded_normal(torch.tensor([7]), "noise", size=(20,)),
    ):
        assert not torch.isin(other, draw[1]).any()


def test_random_numbers_stay_those_that_runs_were_trained_with():
    expected = torch.tensor([[0.0451161153614521, 1.3699958324432373, -0.9540953040122986]])
    torch.testing.assert_close(seeded_normal(torch.tensor([7]), "noise", 3, size=(3,)), expected)
    torch.testing.assert_close(seeded_uniform(torch.tensor([7]), "noise", 3), torch.tensor([0.019605576992034912]))


@pytest.mark.gpu
def test_random_numbers_are_those_of_the_cpu():
    seeds = torch.tensor([1, 2**40])
    torch.testing.assert_close(
        seeded_normal(seeds.cuda(), "x", 3, size=(9999,)).cpu(), seeded_normal(seeds, "x", 3, size=(9999,))
    )
    assert torch.equal(seeded_uniform(seeds.cuda(), "x", 3).cpu(), seeded_uniform(seeds, "x", 3))
