from __future__ import annotations

import os
import time

import numpy as np
import pytest

from flashvsr.curate.isolation import WorkerCrashed, WorkerProcess


@pytest.fixture(scope="module")
def child():
    one = WorkerProcess()
    yield one
    one.stop()


def process_of(number):
    return os.getpid(), number


def sleep_for_long():
    time.sleep(60)


def kill_myself():
    os.kill(os.getpid(), 11)


def make_a_mistake():
    raise ValueError("at /some/place 0x7f12")


def test_one_child_answers_call_after_call(child):
    first, second = (child.call(process_of, number, timeout=30) for number in (1, 2))
    assert first == (second[0], 1)
    assert first[0] != os.getpid()


def test_arrays_come_back_whole(child):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 500, 500, 3), np.uint8)
    assert np.array_equal(child.call(np.flip, pictures, timeout=30), np.flip(pictures))


@pytest.mark.parametrize(
    ("function", "words"),
    [(kill_myself, "crashed (signal 11)"), (make_a_mistake, "crashed (ValueError)"), (os.abort, "crashed (signal 6)")],
)
def test_a_crash_is_told_in_words_that_do_not_vary_and_the_next_call_works(child, function, words):
    with pytest.raises(WorkerCrashed) as error:
        child.call(function, timeout=30)
    assert str(error.value) == words
    assert child.call(process_of, 3, timeout=30)[1] == 3


def close_the_pipe_and_stay():
    os.closerange(3, 100)
    time.sleep(60)


def test_a_child_that_closes_its_pipe_and_hangs_is_ended(child, monkeypatch):
    monkeypatch.setattr("flashvsr.curate.isolation._PATIENCE", 0.2)
    with pytest.raises(WorkerCrashed, match=r"crashed \(signal 9\)"):
        child.call(close_the_pipe_and_stay, timeout=30)


def test_a_call_without_end_is_stopped(child):
    before = child.call(process_of, 1, timeout=30)[0]
    start = time.monotonic()
    with pytest.raises(WorkerCrashed, match=r"no result within 0\.5 s"):
        child.call(sleep_for_long, timeout=0.5)
    assert time.monotonic() - start < 10
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)
