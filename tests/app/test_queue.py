"""The queue: one file after the other, each can be stopped and go on, and none is stopped by another's failure."""

import errno
import threading

import pytest
import torch
from PIL import Image

from flashvsr.app import Queue, Settings
from flashvsr.app.queued_file import State
from flashvsr.upscale import upscale_file
from flashvsr.video import VideoError
from tests.upscale.standin import StandIn, audio_packets, read_frames, same_video


def one(queue, number=1):
    assert queue.wait(60)
    return queue.file(number)


def test_a_result_is_the_file_that_the_command_makes(queue, dropped, tmp_path):
    path = dropped()
    expected = tmp_path / "expected.mp4"
    upscale_file(path, expected, model=StandIn(), scale=2, segment_seconds=10, quiet=True)
    queue.start(queue.add(path).number, Settings(size="2x"))
    file = one(queue)
    assert file.state is State.DONE and file.output.name == "clip_2x.mp4"
    assert file.output.read_bytes() == expected.read_bytes()
    assert file.done == file.total == 60 and "60 frames" in file.log[-1]


def test_an_upload_is_moved_and_a_refused_one_is_deleted(queue, folder, dropped):
    queue.add(dropped())
    (folder.uploads / "bad.mp4").write_text("no video")
    with pytest.raises(VideoError, match=r"bad\.mp4 is no video"):
        queue.add(folder.uploads / "bad.mp4")
    assert list(folder.uploads.iterdir()) == []
    assert [path.name for path in folder.files.iterdir()] == ["1"]


def test_a_picture_gives_a_picture(queue, folder):
    Image.new("RGB", (32, 24), (10, 200, 30)).save(folder.uploads / "leaf.png")
    queue.start(queue.add(folder.uploads / "leaf.png").number)
    file = one(queue)
    assert file.state is State.DONE and file.output.suffix == ".png"
    assert Image.open(file.output).size == (128, 96)


class Gate(StandIn):
    """Waits before each step until it is let on."""

    def __init__(self):
        super().__init__()
        self.reached, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def step(self, lr, noise, state):
        self.reached.release()
        assert self.go.acquire(timeout=60)
        return super().step(lr, noise, state)


def test_a_stopped_run_goes_on_to_the_same_frames(folder, dropped, tmp_path, monkeypatch):
    monkeypatch.setattr("flashvsr.app.queue.SEGMENT_SECONDS", 0.5)
    path = dropped()
    whole = tmp_path / "whole.mp4"
    upscale_file(path, whole, model=StandIn(), segment_seconds=0.5, quiet=True)
    gate = Gate()
    queue = Queue(folder.files, lambda name: gate)
    queue.start(queue.add(path).number)
    for _ in range(4):
        assert gate.reached.acquire(timeout=60)
        gate.go.release()
    assert gate.reached.acquire(timeout=60)
    queue.stop(1)
    gate.go.release(100)
    file = one(queue)
    assert file.state is State.STOPPED and 0 < file.done < 60
    assert f"{file.done} frames are kept" in file.log[-1]
    queue.start(1)
    file = one(queue)
    assert file.state is State.DONE and any("goes on after" in line for line in file.log)
    assert same_video(file.output, whole)
    assert audio_packets(file.output) == audio_packets(whole)
    queue.close()


def test_with_other_settings_a_run_starts_over(folder, dropped):
    queue = Queue(folder.files, lambda name: StandIn())
    queue.start(queue.add(dropped(frames=5)).number, Settings(size="2x"))
    first = one(queue).output
    queue.start(1, Settings(size="3x", container="mkv"))
    file = one(queue)
    assert file.output.name == "clip_3x.mkv" and not first.exists()
    assert read_frames(file.output)[0].shape == (5, 3, 96, 144)
    queue.close()


def test_files_run_one_at_a_time_in_the_order_of_their_start(folder, dropped):
    running, seen = [], []

    class Watched(StandIn):
        def step(self, lr, noise, state):
            running.append(1)
            seen.append(len(running))
            result = super().step(lr, noise, state)
            running.pop()
            return result

    order = []
    queue = Queue(folder.files, lambda name: order.append(name) or Watched())
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        queue.add(dropped(name, frames=3))
    for number in (3, 1, 2):
        queue.start(number, Settings(model=str(number)))
    assert queue.wait(60)
    assert order == ["3", "1", "2"] and max(seen) == 1
    queue.close()


@pytest.mark.parametrize(
    ("error", "words", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory. Choose a smaller scale", True),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full", True),
        (VideoError("clip is damaged\nat 3 s"), "clip is damaged. at 3 s", True),
        (RuntimeError("shapes differ"), "an unexpected error, RuntimeError: shapes differ", False),
    ],
)
def test_a_failure_is_told_in_words_and_the_next_file_runs(folder, dropped, error, words, expected):
    models = iter([StandIn(error=error), StandIn()])
    queue = Queue(folder.files, lambda name: next(models))
    for name in ("a.mp4", "b.mp4"):
        queue.start(queue.add(dropped(name, frames=3)).number)
    file = one(queue)
    assert file.state is State.FAILED and words in file.log[-1]
    assert ("Traceback" in file.trace) is not expected
    assert queue.file(2).state is State.DONE
    queue.close()


def test_a_waiting_file_can_be_taken_out_and_a_running_one_not_removed(folder, dropped):
    gate = Gate()
    queue = Queue(folder.files, lambda name: gate)
    for name in ("a.mp4", "b.mp4"):
        queue.start(queue.add(dropped(name, frames=3)).number)
    assert gate.reached.acquire(timeout=60)
    queue.stop(2)
    assert queue.file(2).state is State.READY
    with pytest.raises(ValueError, match="stop it first"):
        queue.remove(1)
    queue.remove(2)
    gate.go.release(100)
    assert queue.wait(60)
    assert [file.number for file in queue.files()] == [1] and not (folder.files / "2").exists()
    queue.close()


def test_closing_stops_the_run(folder, dropped):
    gate = Gate()
    queue = Queue(folder.files, lambda name: gate)
    queue.start(queue.add(dropped()).number)
    assert gate.reached.acquire(timeout=60)
    gate.go.release(1)
    closing = threading.Thread(target=queue.close)
    closing.start()
    gate.go.release(100)
    closing.join(60)
    assert not closing.is_alive() and queue.file(1).state is State.STOPPED


def test_the_detail_of_a_file_is_that_of_its_run(folder, dropped):
    used = []

    class Detailed(StandIn):
        def with_detail(self, detail):
            used.append(detail)
            return self

    queue = Queue(folder.files, lambda name: Detailed())
    number = queue.add(dropped(frames=3)).number
    for detail in (0.25, 1.0):
        queue.start(number, Settings(size="2x", detail=detail))
        assert one(queue).state is State.DONE
    assert used == [0.25]
    starts = [line.partition(" with ")[2] for line in one(queue).log if " with " in line]
    assert starts == ["nano, detail 0.25", "nano"]
    queue.close()


def test_a_height_is_reached_and_one_that_is_no_enlargement_is_refused(queue, dropped):
    number = queue.add(dropped(frames=3)).number
    with pytest.raises(ValueError, match="there is nothing to enlarge"):
        queue.start(number, Settings(size="20p"))
    assert queue.file(number).state is State.READY
    queue.start(number, Settings(size="100p"))
    file = one(queue)
    assert file.output.name == "clip_100p.mp4" and file.target == (100, 150)
    assert read_frames(file.output)[0].shape == (3, 3, 100, 150)
