"""Stages in this process and on Ray: the same items, and scorers on GPUs of their own."""

from __future__ import annotations

import os
import pickle
import sys
import time
from functools import partial

import pytest

from flashvsr.curate import CurateError
from flashvsr.curate.engine import PipelineStage, RaySession, _Actor, _Task, run_in_process, run_ray


@pytest.fixture
def ray_of():
    """Starts a Ray of so many processes that believes in GPUs: it hands them out, and nothing computes on one."""
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import this file

    def start(cpus, gpus):
        ray.init(num_cpus=cpus, num_gpus=gpus, address="local", log_to_driver=False, include_dashboard=False)

    yield start
    ray.shutdown()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def twice(item):
    return [item, item + 100]


def drop_odd(item):
    return [item] if item % 2 == 0 else []


def make_scorer(folder, actors):
    """Scores when so many actors have an item, so that none does it all before the others have begun."""
    import ray

    def score(item):
        (folder / str(os.getpid())).touch()
        end = time.monotonic() + 60
        while len(list(folder.iterdir())) < actors and time.monotonic() < end:
            time.sleep(0.05)
        return item, os.getpid(), tuple(ray.get_runtime_context().get_accelerator_ids()["GPU"])

    return score


def test_one_item_may_become_several_or_none_and_order_is_kept_here():
    stages = [
        PipelineStage("twice", twice),
        PipelineStage("drop", drop_odd),
        PipelineStage("make", make=lambda: lambda item: -item),
    ]
    assert list(run_in_process(range(3), stages)) == [0, -100, -2, -102]


@pytest.mark.slow  # a Ray of its own
@pytest.mark.parametrize(("cpus", "gpus"), [(2, 2), (1, 0)])
def test_ray_gives_the_items_of_this_process_and_every_scorer_a_gpu_of_its_own(ray_of, tmp_path, cpus, gpus):
    ray_of(cpus, gpus)
    plain = [PipelineStage("twice", twice, spreads=True), PipelineStage("drop", drop_odd)]
    scorer = PipelineStage("scorer", make=partial(make_scorer, tmp_path, max(1, gpus)))
    made = list(run_ray(range(30), [*plain, scorer]))
    assert sorted(item for item, _, _ in made) == sorted(run_in_process(range(30), plain))
    actors = {process: given for _, process, given in made}
    assert sorted(actors.values()) == ([("0",), ("1",)] if gpus else [()])


def test_a_row_of_ray_goes_through_a_stage_as_an_item_does_here():
    rows = _Task(twice)({"item": pickle.dumps(3)})
    assert [pickle.loads(row["item"]) for row in rows] == twice(3)
    (made,) = _Actor(lambda: abs)({"item": [pickle.dumps(-3)]})["item"]
    assert pickle.loads(made) == 3


def test_nothing_to_do_starts_nothing():
    assert list(run_ray([], [PipelineStage("twice", twice)])) == []


def test_a_cluster_that_is_not_there_is_named():
    said = r"cannot be started or reached \(127\.0\.0\.1:1\)(.|\n)*\ncheck --cluster"
    with pytest.raises(CurateError, match=said), RaySession(1, "127.0.0.1:1"):
        pass
