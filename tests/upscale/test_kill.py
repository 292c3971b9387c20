"""Runs killed by SIGKILL, which no handler sees, and resumed until they are done."""

import multiprocessing
import os
import random
import signal

import pytest

from flashvsr.upscale import upscale_file
from tests.upscale.standin import StandIn, audio_packets, same_video

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL: runs killed at random were not resumed")
SEGMENT_SECONDS = 1.0
DURABLE = ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir")  # of os


def _upscale(clip, output, seconds_per_step=0.0, last_call=None):
    """Run in a child process, which kills itself just before change number ``last_call`` on the disk."""
    os.environ["OMP_NUM_THREADS"] = "1"
    calls = 0

    def mortal(function):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls == last_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return call

    if last_call is not None:
        for name in DURABLE:
            setattr(os, name, mortal(getattr(os, name)))
    model = StandIn(seconds_per_step)
    upscale_file(clip, output, model=model, segment_seconds=SEGMENT_SECONDS, resume=True, quiet=True)


@pytest.fixture(scope="module")
def children():
    """Processes that start in milliseconds, because their parent has imported everything and nothing more."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["standin", "flashvsr.upscale"])
    return context


@pytest.fixture(scope="module")
def whole(clip, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "out.mp4"
    upscale_file(clip, output, model=StandIn(), segment_seconds=SEGMENT_SECONDS, quiet=True)
    return output


def _killed(children, *args, after=None) -> bool:
    child = children.Process(target=_upscale, args=args)
    child.start()
    child.join(after)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


@pytest.mark.slow  # each of the ten runs has to live for a while before it is killed
def test_killed_at_ten_random_moments_and_resumed_the_frames_are_the_same(children, clip, whole, tmp_path):
    moments = random.Random(7)
    output = tmp_path / "out.mp4"
    kills = 0
    while kills < 10 or not output.exists():
        lifetime = moments.uniform(0.2, 1.6) if kills < 10 else None
        killed = _killed(children, clip, output, 0.15, after=lifetime)
        kills += killed
        assert killed != output.exists(), "the final name appears when the run is complete, and not before"
        if output.exists():
            assert same_video(output, whole)
            assert audio_packets(output) == audio_packets(clip)
            assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
            if kills < 10:
                output.unlink()


@pytest.mark.slow  # some fifty processes: for each moment one that dies there
def test_killed_before_any_change_on_the_disk_a_run_can_go_on(children, clip, whole, tmp_path):
    output, partial = tmp_path / "out.mp4", tmp_path / "out.mp4.partial"
    moment = 1
    while _killed(children, clip, output, 0.0, moment):
        if output.exists() and not any(partial.iterdir()):
            partial.rmdir()  # the very last moment: all is done, and only the empty folder was not deleted
        else:
            upscale_file(clip, output, model=StandIn(), segment_seconds=SEGMENT_SECONDS, resume=True, quiet=True)
        assert same_video(output, whole), f"killed before change {moment}"
        assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
        output.unlink()
        moment += 1
    assert moment > 20
    assert same_video(output, whole)
